"""The stores under contract; a new store joins by a line in `WRITABLE` or `READABLE`."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from cachegen.store import Store, open_store


class FileServer(http.server.ThreadingHTTPServer):
    """A plain file server on loopback; remembers the credentials it was sent."""

    request_queue_size = 128
    authorizations: set[str | None]

    def __init__(self, directory: Path, *, ranges: bool = True) -> None:
        handler = RangeHandler if ranges else QuietHandler
        super().__init__(("127.0.0.1", 0), functools.partial(handler, directory=str(directory)))
        self.authorizations = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        self.server.authorizations.add(self.headers.get("Authorization"))


class RangeHandler(QuietHandler):
    """Answers ``Range: bytes=first-last``, as every real file server does."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            return super().do_GET()
        first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
        data = path.read_bytes()
        body = data[first : last + 1]
        self.send_response(206 if body else 416)
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(directory: Path, *, ranges: bool = True) -> Iterator[FileServer]:
    with FileServer(directory, ranges=ranges) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def file_server() -> Callable[..., AbstractContextManager[FileServer]]:
    """`file_server(directory)` serves it while the context lasts."""
    return serving


def _memory(_: Path) -> Store:
    return open_store("memory:")


def _file(directory: Path) -> Store:
    return open_store(directory.as_uri())


WRITABLE: dict[str, Callable[[Path], Store]] = {"memory": _memory, "file": _file}
READABLE = (*WRITABLE, "http")


@pytest.fixture(params=WRITABLE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store that can be written."""
    return WRITABLE[request.param](tmp_path / "store")


@pytest.fixture(params=READABLE)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """A writer, and a reader of the same objects."""
    directory = tmp_path / "store"
    if request.param != "http":
        both = WRITABLE[request.param](directory)
        yield both, both
        return
    writer = _file(directory)
    with serving(directory) as server:
        yield writer, open_store(f"http://{server.host}/", timeout_s=5.0)
