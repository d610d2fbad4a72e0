"""A server and others beside it: writers in its folder, a second server; and a read-only folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from cachegen.errors import StoreDenied
from cachegen.store import open_store, read


def refused(*options: object) -> str:
    """What a server says that does not start."""
    command = [sys.executable, "-m", "cachegen.cli", "serve", "--port", "0", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


def test_what_is_sent_is_what_is_there_now(serve, tmp_path: Path) -> None:
    """As manifests are replaced, by shorter and by longer ones, beside a server with an index."""
    other = open_store(tmp_path / "store")
    with serve("--store", tmp_path / "store", "--index", tmp_path / "index") as server:
        client = server.client()
        client.put("contexts/k", b"1" * 100)
        for size_bytes in (10, 1000, 0, 7):
            other.delete("contexts/k")
            other.put("contexts/k", b"2" * size_bytes)
            answer = urllib3.request("GET", f"{server.url}/contexts/k", retries=False)
            assert (answer.status, answer.data) == (200, b"2" * size_bytes)
            assert answer.headers["Content-Length"] == str(size_bytes)
            head = urllib3.request("HEAD", f"{server.url}/contexts/k", retries=False)
            assert head.headers["Content-Length"] == str(size_bytes)
            assert client.lookup(["contexts/k"]) == [size_bytes]
        part = urllib3.request(
            "GET", f"{server.url}/contexts/k", headers={"Range": "bytes=-3"}, retries=False
        )
        assert (part.status, part.headers["Content-Range"]) == (206, "bytes 4-6/7")
        other.delete("contexts/k")
        assert client.lookup(["contexts/k"]) == [None]
        assert client.put("contexts/k", b"3")
        assert read(other, "contexts/k") == b"3"


def test_a_second_server_does_not_start(serve, tmp_path: Path) -> None:
    """Until the first has ended, be it by SIGKILL."""
    with serve("--store", tmp_path / "store", "--index", tmp_path / "index") as server:
        said = refused("--store", tmp_path / "store")
        assert f"expected to be its only server, but process {server.process.pid}" in said
        said = refused("--store", tmp_path / "other", "--index", tmp_path / "index")
        assert "expected to be alone, but another process uses it" in said
        assert server.client().put("k", b"1")
        server.process.kill()
        server.process.wait()
    with serve("--store", tmp_path / "store", "--index", tmp_path / "index") as server:
        assert list(server.client().list()) == ["k"]


def test_a_folder_that_can_only_be_read(serve, tmp_path: Path) -> None:
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted")
    try:
        open_store(tmp_path).put("a/k", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with serve("--store", tmp_path, "--quota-mb", 1) as server:
            client = server.client()
            assert (read(client, "a/k"), list(client.list())) == (b"1", ["a/k"])
            with pytest.raises(StoreDenied, match="can only be read"):
                client.put("a/new", b"1")
            with pytest.raises(StoreDenied, match="can only be read"):
                client.delete("a/k")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
