"""The stores under contract; a new store joins by a line in `WRITABLE` or `READABLE`."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest
import redis
import urllib3

from cachegen.store import Store, open_store
from tests.store import buckets


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


@contextmanager
def running(command: list[str], *, port: int) -> Iterator[None]:
    """A server of its own process while the context lasts; it accepts connections."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=said) as process,
    ):
        try:
            _await_port(process, port, said)
            yield
        finally:
            process.terminate()
            process.wait(timeout=20)


def _await_port(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    give_up_s = time.monotonic() + 30
    while time.monotonic() < give_up_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    said.seek(0)
    pytest.fail(f"{process.args} did not start: {said.read().decode()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def program(name: str) -> str:
    """The path of an installed program; where there is none the test is skipped, or fails."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        absent = f"{name} is not installed"
        if os.environ.get("CACHEGEN_REQUIRE_SERVERS") == "1":
            pytest.fail(absent)
        pytest.skip(absent)
    return found


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[str]]:
    """`cachegen serve`; URLs of tenants that nobody used yet."""
    directory, port = tmp_path_factory.mktemp("own"), free_port()
    tenants = [{"name": f"{n}", "token": f"token{n}", "salt": f"salt{n}"} for n in range(300)]
    (directory / "tokens.json").write_text(json.dumps({"tenants": tenants}))
    options = ["--store", str(directory / "store"), "--tenants", str(directory / "tokens.json")]
    command = [sys.executable, "-m", "cachegen.cli", "serve", *options, "--port", str(port)]
    with running(command, port=port):
        yield (f"cachegen://:{tenant['token']}@127.0.0.1:{port}" for tenant in tenants)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's Redis, without files."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    options += ["--dir", str(tmp_path_factory.mktemp("redis"))]
    with running([program("redis-server"), *options], port=port):
        yield f"redis://127.0.0.1:{port}/0"


MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app))
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The S3 protocol, spoken by moto, one request at a time.

    With threads its conditional puts are not atomic, as those of S3 are.
    """
    port = free_port()
    with running([sys.executable, "-c", MOTO, str(port)], port=port):
        url = f"http://127.0.0.1:{port}"
        urllib3.request("PUT", f"{url}/bucket", retries=False)
        yield url


@pytest.fixture
def bucket_server() -> Iterator[buckets.BucketServer]:
    """What a store needs of GCS and Azure, empty."""
    with buckets.bucket_serving() as server:
        yield server


NGINX = """
daemon off; master_process off; pid {0}/pid; error_log {0}/errors;
events {{}}
http {{
  access_log off;
  client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c;
  uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;
  server {{ listen 127.0.0.1:{1}; root {0}/files; }}
}}
"""


@pytest.fixture(scope="session")
def nginx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Debian's nginx: the folder whose files it serves, and its URL."""
    directory, port = tmp_path_factory.mktemp("nginx"), free_port()
    (directory / "files").mkdir()
    (directory / "configuration").write_text(NGINX.format(directory, port))
    command = [program("nginx"), "-p", str(directory), "-c", str(directory / "configuration")]
    with running([*command, "-e", str(directory / "errors")], port=port):
        yield directory / "files", f"http://127.0.0.1:{port}"


Request = pytest.FixtureRequest


def _memory(_: Request, __: Path) -> Store:
    return open_store("memory:")


def _file(_: Request, directory: Path) -> Store:
    return open_store(directory.as_uri())


def _own(request: Request, _: Path) -> Store:
    return open_store(next(request.getfixturevalue("own_server")))


def _redis(request: Request, _: Path) -> Store:
    url = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return open_store(url)


def _s3(request: Request, directory: Path) -> Store:
    environment = request.getfixturevalue("monkeypatch")
    buckets.use(environment, "s3", request.getfixturevalue("s3_server"))
    return open_store(f"s3://bucket/{directory.parent.name}")


def _gcs(request: Request, _: Path) -> Store:
    server = request.getfixturevalue("bucket_server")
    buckets.use(request.getfixturevalue("monkeypatch"), "gs", server.url)
    return open_store("gs://bucket/some/prefix")


def _azure(request: Request, _: Path) -> Store:
    server = request.getfixturevalue("bucket_server")
    buckets.use(request.getfixturevalue("monkeypatch"), "az", f"{server.url}/account")
    return open_store("az://container")


Open = Callable[[Request, Path], Store]
WRITABLE: dict[str, Open] = {
    "memory": _memory,
    "file": _file,
    "server": _own,
    "redis": _redis,
    "s3": _s3,
    "gs": _gcs,
    "az": _azure,
}
READABLE = (*WRITABLE, "http", "nginx")


@pytest.fixture(params=WRITABLE)
def store(request: Request, tmp_path: Path) -> Store:
    """An empty store that can be written."""
    return WRITABLE[request.param](request, tmp_path / "store")


@pytest.fixture(params=READABLE)
def pair(request: Request, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """A writer, and a reader of the same objects."""
    if request.param == "http":
        writer = _file(request, tmp_path)
        with serving(tmp_path) as server:
            yield writer, open_store(f"http://{server.host}/", timeout_s=5.0)
    elif request.param == "nginx":
        files, url = request.getfixturevalue("nginx_server")
        yield _file(request, files / tmp_path.name), open_store(f"{url}/{tmp_path.name}/")
    else:
        both = WRITABLE[request.param](request, tmp_path / "store")
        yield both, both
