"""Stores in forked children: they work there, on connections of their own, or say why not."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import redis

from tests.store.buckets import BucketServer, use

FORKER = Path(__file__).with_name("forker.py")
LIMIT_S = 100


def run_forker(*arguments: str) -> str:
    """Into a file: the end of a pipe would be waited for as long as a child that hangs has it."""
    command = [sys.executable, str(FORKER), *arguments]
    with tempfile.TemporaryFile("w+") as said:
        ran = subprocess.run(command, stdout=said, stderr=said, timeout=LIMIT_S, check=False)
        said.seek(0)
        text = said.read()
    assert ran.returncode == 0, text
    return text


def test_memory_and_folders_work_in_children(tmp_path: Path) -> None:
    for url in ("memory:", str(tmp_path / "store")):
        assert run_forker(url) == "done\n"


def test_our_server_works_in_children(own_server) -> None:
    assert run_forker(next(own_server)) == "done\n"


def test_redis_works_in_children(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    assert run_forker(redis_server) == "done\n"


def test_buckets_of_s3_name_spawn_in_children(s3_server: str, tmp_path: Path, monkeypatch) -> None:
    use(monkeypatch, "s3", s3_server)
    assert run_forker(f"s3://bucket/{tmp_path.name}-forked") == "refused\n"


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_buckets_name_spawn_in_children(
    scheme: str, bucket_server: BucketServer, monkeypatch
) -> None:
    use(monkeypatch, scheme, bucket_server.url)
    assert run_forker(f"{scheme}://bucket") == "refused\n"


class PortServer(http.server.ThreadingHTTPServer):
    """Answers lookups of one key; remembers who asked."""

    ports: list[int]


class PortHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PortServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.ports.append(self.client_address[1])
        body = json.dumps({"sizes": [None]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port_server():
    with PortServer(("127.0.0.1", 0), PortHandler) as server:
        server.daemon_threads, server.ports = True, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_no_connection_to_our_server_is_shared(port_server: PortServer) -> None:
    """The parent's second request goes over its first connection, which no child has used."""
    run_forker("ports", f"cachegen://127.0.0.1:{port_server.server_address[1]}")
    parent, child, grandchild, again = port_server.ports
    assert len({parent, child, grandchild}) == 3
    assert again == parent


def test_no_connection_to_redis_is_shared(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client:
        before = client.info("stats")["total_connections_received"]
        run_forker("ports", redis_server)
        after = client.info("stats")["total_connections_received"]
    assert after - before == 3
