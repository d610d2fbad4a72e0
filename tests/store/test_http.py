"""What only an HTTP server does: fail in its own ways, take credentials, refuse writes."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachegen.errors import StoreError, StoreTimeout
from cachegen.store import open_store, read


@contextmanager
def answering(response: bytes | None) -> Iterator[str]:
    """A server that answers every request with these bytes and hangs up; None: never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        stop = threading.Event()
        thread = threading.Thread(target=_answer, args=(server, response, stop))
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        stop.set()
        thread.join()


def _answer(server: socket.socket, response: bytes | None, stop: threading.Event) -> None:
    server.settimeout(0.05)
    while not stop.is_set():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        with connection:
            connection.recv(65536)
            if response is None:
                stop.wait()
            else:
                connection.sendall(response)


def test_writing_is_refused_without_a_request(tmp_path: Path) -> None:
    store = open_store("http://127.0.0.1:9/")
    for verb in (lambda: store.put("k", b"1"), lambda: store.list(), lambda: store.delete("k")):
        with pytest.raises(StoreError, match="read-only"):
            verb()


def test_credentials_are_sent_and_never_shown(tmp_path: Path, file_server) -> None:
    (tmp_path / "k").write_bytes(b"1")
    with file_server(tmp_path) as server:
        store = open_store(f"http://us%40er:se%3Acret@{server.host}/")
        assert read(store, "k") == b"1"
        assert server.authorizations == {"Basic " + base64.b64encode(b"us@er:se:cret").decode()}
        with pytest.raises(StoreError) as failure:
            store.get("none")
    assert "cret" not in f"{store!r} {failure.value} {failure.value.__cause__}"
    assert server.host in str(failure.value)


def test_a_prefix_of_the_url_is_kept(tmp_path: Path, file_server) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "k").write_bytes(b"1")
    with file_server(tmp_path) as server:
        assert read(open_store(f"http://{server.host}/some"), "k") == b"1"
        assert read(open_store(f"http://{server.host}/some/"), "k") == b"1"


def test_a_server_without_ranges_is_not_taken_for_one_with(tmp_path: Path, file_server) -> None:
    (tmp_path / "k").write_bytes(b"0123456789")
    with file_server(tmp_path, ranges=False) as server:
        store = open_store(f"http://{server.host}/")
        assert read(store, "k") == b"0123456789"
        with pytest.raises(StoreError, match="not supported"):
            list(store.get("k", (2, 4)))


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    store = open_store(url, timeout_s=0.3)
    for verb in (lambda: store.get("k"), lambda: store.lookup([str(n) for n in range(50)])):
        with pytest.raises(StoreError, match=url):
            verb()


def test_a_server_that_never_answers() -> None:
    with answering(None) as url:
        store = open_store(url, timeout_s=0.3)
        with pytest.raises(StoreTimeout, match=f"{url}: cannot get k"):
            store.get("k")
        with pytest.raises(StoreTimeout):
            store.lookup(["k", "l"])


def test_a_body_that_ends_early() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT"
    with answering(head + b"\r\n\r\nonly this") as url, pytest.raises(StoreError, match="get k"):
        read(open_store(url, timeout_s=0.5), "k")


@pytest.mark.parametrize("status", ["500 Internal Server Error", "403 Forbidden"])
def test_an_answer_that_is_an_error(status: str) -> None:
    with answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as url:
        store = open_store(url, timeout_s=0.3)
        with pytest.raises(StoreError, match="get k"):
            store.get("k")
        with pytest.raises(StoreError, match="look up k"):
            store.lookup(["k"])
