"""The server's process: signals, slow clients, eviction, a hard end."""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from cachegen.errors import KeyNotFound, StoreError
from cachegen.store import open_store, read
from tests.server.clients import MB, asking_slowly, eventually, files_of, growth_below


def take_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def test_slow_readers_cost_little_memory(serve, tmp_path: Path) -> None:
    """1.3 MB each: a piece of the store's, one that is sent, and what waits in between."""
    open_store(tmp_path).put("large", bytes(40 * MB))
    with serve("--store", tmp_path) as server:
        read(server.client(), "large")
        before = files_of(server)
        with ExitStack() as stack, growth_below(server, 20):
            for _ in range(8):
                stack.enter_context(asking_slowly(server, "/large"))
            assert eventually(lambda: files_of(server) >= before + 14)  # sockets and objects
            time.sleep(0.3)


def test_sigterm_lets_transfers_finish(serve, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(20 * MB)
    open_store(tmp_path).put("k", data)
    with serve("--store", tmp_path) as server, asking_slowly(server, "/k") as connection:
        head = connection.recv(1000)
        stopping = threading.Timer(0.1, server.process.terminate)
        stopping.start()
        time.sleep(0.4)
        assert server.process.poll() is None
        with pytest.raises(StoreError):
            server.client(timeout_s=0.5).lookup(["k"])
        rest = take_all(connection)
        assert (head + rest).partition(b"\r\n\r\n")[2] == data
        assert server.process.wait(timeout=10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_first_moment(serve, tmp_path: Path, number: signal.Signals) -> None:
    with serve("--store", tmp_path) as server:
        server.process.send_signal(number)
        assert server.process.wait(timeout=10) == 0


def test_a_transfer_that_takes_too_long_is_cut(serve, tmp_path: Path) -> None:
    open_store(tmp_path).put("k", bytes(20 * MB))
    with (
        serve("--store", tmp_path, "--drain-s", 1) as server,
        asking_slowly(server, "/k") as connection,
    ):
        connection.recv(1000)
        assert server.stop() == 0
        assert len(take_all(connection)) < 20 * MB


def test_a_killed_server_leaves_whole_objects(serve, tmp_path: Path) -> None:
    source, store = random.Random(6), open_store(tmp_path / "store")
    for round_ in range(2):
        with serve("--store", tmp_path / "store", "--index", tmp_path / "index") as server:
            client = server.client()
            for key in store.list():
                assert hashlib.sha256(read(client, key)).hexdigest() == key.partition("/")[2]
            client.put(f"{round_}/{hashlib.sha256(b'1').hexdigest()}", b"1")
            killing = threading.Timer(source.uniform(0.05, 0.3), server.process.kill)
            killing.start()
            with pytest.raises(StoreError):
                while True:
                    data = source.randbytes(source.randrange(2 * MB))
                    client.put(f"{round_}/{hashlib.sha256(data).hexdigest()}", data)
            killing.join()
    kept = list(store.list())
    assert kept
    assert all(hashlib.sha256(read(store, key)).hexdigest() in key for key in kept)


def test_capacity(serve, tmp_path: Path) -> None:
    options = ("--store", tmp_path / "store", "--capacity-mb", 1, "--index", tmp_path / "index")
    with serve(*options) as server:
        client = server.client()
        client.put("parent", bytes(300_000))
        client.put("child", bytes(300_000), parent="parent")
        client.put("other", bytes(300_000))
        read(client, "child")
        assert server.stop() == 0
    with serve(*options) as server:
        client = server.client()
        client.put("new", bytes(200_000))
        assert sorted(client.list()) == ["child", "new", "parent"]
        client.put("newer", bytes(450_000))
        assert sorted(client.list()) == ["new", "newer", "parent"]
        with pytest.raises(KeyNotFound):
            client.get("child")


def test_the_limit_of_open_files_is_raised(serve, tmp_path: Path) -> None:
    """A socket, and an object or a body, for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serve("--store", tmp_path, "--max-connections", 300) as server:
            granted, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert granted == 2 * 300 + 256


@pytest.mark.parametrize("with_index", [False, True])
def test_eviction_without_an_index_file_is_pointed_out(serve, tmp_path, with_index) -> None:
    options = ["--store", tmp_path / "store", "--capacity-mb", 1]
    options += ["--index", tmp_path / "index"] * with_index
    with serve(*options, errors=tmp_path / "errors"):
        said = (tmp_path / "errors").read_text()
    assert ("a restart forgets" in said) is not with_index
