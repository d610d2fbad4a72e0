"""Clients of HTTP on links and servers that misbehave: our own client, and obstore's."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cachegen.errors import StoreError, StoreTimeout
from cachegen.store import Store, open_store, read

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
Script = Callable[[socket.socket], None]


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """A server that runs a script on every connection, one after the other; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        thread = threading.Thread(target=_serve, args=(server, script))
        thread.start()
        host, port = server.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            socket.create_connection((host, port)).close()
            thread.join()


def _serve(server: socket.socket, script: Script) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            if not connection.recv(65536):
                return
            script(connection)


@pytest.fixture(params=["cachegen", "http"])
def open_client(request: pytest.FixtureRequest) -> Callable[[str], Store]:
    return lambda host: open_store(f"{request.param}://{host}", timeout_s=0.5)


def test_bytes_come_as_they_arrive(open_client) -> None:
    proceed = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(HEAD % 3000 + b"a" * 1000)
        proceed.wait(0.4)
        connection.sendall(b"b" * 2000)

    with scripted(trickle) as host:
        pieces = open_client(host).get("k")
        assert bytes(next(pieces)) == b"a" * 1000
        proceed.set()
        assert b"".join(pieces) == b"b" * 2000


def test_closing_ends_the_transfer(open_client) -> None:
    sent = []

    def pour(connection: socket.socket) -> None:
        connection.sendall(HEAD % 10**9)
        try:
            while sum(sent) < 10**9:
                sent.append(connection.send(bytes(65536)))
        except OSError:
            sent.append(0)

    with scripted(pour) as host:
        pieces = open_client(host).get("k")
        next(pieces)
        pieces.close()
    assert sent[-1] == 0
    assert sum(sent) < 10**8


def test_a_body_that_stalls(open_client) -> None:
    gone = threading.Event()

    def stall(connection: socket.socket) -> None:
        connection.sendall(HEAD % 3000 + b"a" * 1000)
        gone.wait(5)

    with scripted(stall) as host:
        pieces = open_client(host).get("k")
        assert len(next(pieces)) == 1000
        with pytest.raises(StoreTimeout, match="get k"):
            next(pieces)
        gone.set()


def test_a_body_that_breaks_off(open_client) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.sendall(HEAD % 3000 + b"a" * 1000)

    with scripted(break_off) as host, pytest.raises(StoreError, match="get k"):
        read(open_client(host), "k")


def test_a_connection_that_the_server_has_closed_meanwhile(open_client) -> None:
    answers = []

    def answer_once(connection: socket.socket) -> None:
        answers.append(connection.send(HEAD % 2 + b"ok"))

    with scripted(answer_once) as host:
        client = open_client(host)
        assert [read(client, "k"), read(client, "k"), read(client, "k")] == [b"ok"] * 3
    assert len(answers) == 3


def test_an_upload_may_take_longer_than_one_wait() -> None:
    def take_slowly(connection: socket.socket) -> None:
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while connection.recv(100_000, socket.MSG_WAITALL):
                time.sleep(0.02)
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    with scripted(take_slowly) as host:
        began_s = time.monotonic()
        assert open_store(f"cachegen://{host}", timeout_s=0.5).put("k", bytes(4 << 20))
        assert time.monotonic() - began_s > 0.5


def test_an_answer_before_the_upload_s_end() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.1)

    with scripted(refuse) as host:
        assert open_store(f"cachegen://{host}").put("k", bytes(20 << 20)) is False


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (500, b"<html>", StoreError, "status 500"),
        (302, b"", StoreError, "status 302"),
        (504, b'{"error": "slow store"}', StoreTimeout, "slow store"),
        (200, b'{"sizes": [1]}', StoreError, "another answer"),
        (200, b"[]", StoreError, "another answer"),
        (200, b"\xff", StoreError, "another answer"),
        (200, b"[" * 60_000, StoreError, "another answer"),
        (200, b"[" * 100_000, StoreError, "at most 65584 bytes"),
        (200, b'{"sizes": [1, "2"]}', StoreError, "another answer"),
        (200, b'{"sizes": [1, -2]}', StoreError, "another answer"),
        (500, b"[" * 100_000, StoreError, "status 500"),
    ],
)
def test_answers_to_a_lookup_that_are_none(status, body, kind, reason) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)

    def say_it(connection: socket.socket) -> None:
        connection.sendall(answer)

    with scripted(say_it) as host, pytest.raises(kind, match=reason):
        open_store(f"cachegen://{host}").lookup(["a", "b"])


@pytest.mark.parametrize("body", [b"a\n\xff\n", b"a\n../../b\n", b"a\n" + b"b" * 100_000])
def test_answers_to_a_list_that_are_none(body: bytes) -> None:
    def say_it(connection: socket.socket) -> None:
        connection.sendall(HEAD % len(body) + body)

    with scripted(say_it) as host:
        keys = open_store(f"cachegen://{host}").list()
        assert next(keys) == "a"
        with pytest.raises(StoreError, match="list all keys: expected keys"):
            next(keys)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"objects": 1, "size_bytes": null}',
        b'{"objects": 1, "size_bytes": 2, "quota_bytes": "3"}',
        b'{"objects": -1, "size_bytes": 2}',
    ],
)
def test_answers_about_usage_that_are_none(body: bytes) -> None:
    def say_it(connection: socket.socket) -> None:
        connection.sendall(HEAD % len(body) + body)

    with scripted(say_it) as host, pytest.raises(StoreError, match="expected a number as"):
        open_store(f"cachegen://{host}").usage()


def test_a_refused_connection_is_no_timeout(open_client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
    with pytest.raises(StoreError, match="get k") as failure:
        read(open_client(f"{host}:{port}"), "k")
    assert failure.type is StoreError


def test_pages_of_the_server_are_no_keys() -> None:
    with pytest.raises(StoreError, match="page of the server"):
        open_store("cachegen://127.0.0.1:9").get("metrics")


def test_tokens_are_never_shown() -> None:
    store = open_store("cachegen://:SECRET@127.0.0.1:9", timeout_s=0.2)
    assert store.url == "cachegen://127.0.0.1:9"
    with pytest.raises(StoreError, match="refused") as failure:
        store.lookup(["k"])
    assert "SECRET" not in f"{store!r} {failure.value}"
