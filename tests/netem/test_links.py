"""What both kinds of link must do. Times have lower bounds only: a busy machine is slower."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cachegen.errors import CacheGenError
from cachegen.netem import Link, open_link, rate_schedule

FAR_SERVER = Path(__file__).with_name("far_server.py")
SLOW_MBIT_S = 2.0
SLOW_BYTES = 100_000
SLOW_S = SLOW_BYTES * 8 / SLOW_MBIT_S / 1e6


class Client:
    """A connection to the far server."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def download_s(self, size_bytes: int) -> float:
        """How long an answer of that size takes."""
        began_s = time.perf_counter()
        self.connection.sendall(b"%d\n" % size_bytes)
        self.receive(size_bytes)
        return time.perf_counter() - began_s

    def receive(self, size_bytes: int) -> None:
        while size_bytes:
            part = self.connection.recv(min(size_bytes, 1 << 16))
            assert part, f"{size_bytes} bytes are missing"
            size_bytes -= len(part)


@contextmanager
def serving(link: Link) -> Iterator[subprocess.Popen[str]]:
    """The far server's process; its only line of output is the port."""
    command = [sys.executable, "-S", str(FAR_SERVER), link.host]
    process = link.spawn(command, stdout=subprocess.PIPE, text=True)
    with process.stdout:
        yield process


@contextmanager
def connected(link: Link) -> Iterator[Client]:
    """A client and its server."""
    with serving(link) as process, connect(link, int(process.stdout.readline())) as connection:
        yield Client(connection)


def connect(link: Link, port: int) -> socket.socket:
    host, port = link.address(port).split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_bytes_take_their_time(kind):
    with open_link(SLOW_MBIT_S, kind=kind) as link, connected(link) as client:
        assert link.kind == kind
        assert client.download_s(SLOW_BYTES) > 0.8 * SLOW_S


def test_a_small_object_takes_its_time(kind):
    with open_link(1.0, kind=kind) as link, connected(link) as client:
        assert client.download_s(16_000) > 0.6 * 0.128


def test_the_other_direction_too(kind):
    with open_link(SLOW_MBIT_S, kind=kind) as link, connected(link) as client:
        began_s = time.perf_counter()
        client.connection.sendall(b" " * SLOW_BYTES + b"1\n")
        client.receive(1)
        assert time.perf_counter() - began_s > 0.8 * SLOW_S


def test_connections_share_the_rate(kind):
    with (
        open_link(SLOW_MBIT_S, kind=kind) as link,
        serving(link) as process,
        connect(link, port := int(process.stdout.readline())) as one,
        connect(link, port) as other,
    ):
        began_s = time.perf_counter()
        threads = [
            threading.Thread(target=Client(each).download_s, args=(SLOW_BYTES // 2,))
            for each in (one, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.perf_counter() - began_s > 0.8 * SLOW_S


def test_the_rate_changes_under_way(kind):
    """At the first rate the whole takes 80 s, more than the client waits for a byte."""
    with open_link(0.1, kind=kind) as link, connected(link) as client:
        client.connection.sendall(b"1000000\n")
        client.receive(1)
        link.set_rate(SLOW_MBIT_S)
        link.set_rate(None)
        client.receive(999_999)
        link.set_rate(SLOW_MBIT_S)
        assert client.download_s(SLOW_BYTES) > 0.8 * SLOW_S


@pytest.mark.parametrize("before", [1000.0, 40.0, 20.0])
def test_a_link_that_slows_down_goes_on(kind, before):
    """Packets that were queued at the faster rate do not block the slower one for ever."""
    with open_link(before, kind=kind) as link, connected(link) as client:
        client.connection.sendall(b"50000000\n")
        for _ in range(4):
            client.receive(100_000)
            link.set_rate(5.0)
            client.receive(150_000)
            link.set_rate(before)


def test_a_schedule_of_rates(kind):
    """At the first rate alone, the first download would take 160 s."""
    with open_link(None, kind=kind) as link, connected(link) as client:
        with rate_schedule(link, [(0.05, 0.1), (60, 1000.0)]):
            assert client.download_s(2_000_000) < 80
        with rate_schedule(link, [(60, SLOW_MBIT_S)]):
            assert client.download_s(SLOW_BYTES) > 0.8 * SLOW_S


def test_an_error_of_the_schedule_is_raised(kind):
    with (
        open_link(None, kind=kind) as link,
        pytest.raises(ValueError, match="at least 0 Mbit/s"),
        rate_schedule(link, [(0.0, -1.0)]),
    ):
        pass


def test_an_outage_is_a_trickle(kind):
    with open_link(0, kind=kind) as link, connected(link) as client:
        assert client.download_s(8000) > 0.5 * 8000 * 8 / 0.1e6


@pytest.mark.parametrize("mbit_s", [-1.0, float("inf"), float("nan")])
def test_what_is_not_a_rate(kind, mbit_s):
    with pytest.raises(ValueError, match="expected a rate"), open_link(mbit_s, kind=kind):
        pass


def test_servers_end_with_the_link(kind):
    with ExitStack() as stack:
        with open_link(None, kind=kind) as link:
            process = stack.enter_context(serving(link))
            process.stdout.readline()
            assert process.poll() is None
        assert process.returncode == -signal.SIGTERM


def test_a_server_that_ignores_its_end(kind, monkeypatch):
    monkeypatch.setattr("cachegen.netem.processes._PATIENCE_S", 0.1)
    program = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with ExitStack() as stack:
        with open_link(None, kind=kind) as link:
            command = [sys.executable, "-S", "-c", program]
            process = link.spawn(command, stdout=subprocess.PIPE)
            stack.enter_context(process.stdout)
            process.stdout.readline()
        assert process.returncode == -signal.SIGKILL


def test_nothing_listens(kind):
    with open_link(None, kind=kind) as link:
        try:
            with connect(link, 1) as connection:
                answer = connection.recv(1)
        except ConnectionError:
            answer = b""
        assert answer == b""


def test_a_dead_server_is_noticed(kind):
    with (
        open_link(SLOW_MBIT_S, kind=kind) as link,
        serving(link) as process,
        connect(link, int(process.stdout.readline())) as connection,
    ):
        connection.sendall(b"10000000\n")
        Client(connection).receive(1)
        process.kill()
        process.wait()
        link.set_rate(None)
        with pytest.raises((AssertionError, ConnectionError)):
            Client(connection).receive(9_999_999)


def test_the_kind_is_one_that_is_permitted(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *args, **options: None)
    with open_link(1.0) as link:
        assert link.kind == "proxy"
        assert "'ip' of iproute2, which is not installed" in link.reason
    with pytest.raises(CacheGenError, match="not installed"), open_link(1.0, kind="netns"):
        pass
