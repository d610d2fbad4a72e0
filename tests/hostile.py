"""Servers that lie, endlessly or slowly, and what a process takes meanwhile."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
_BLOCK = bytes(1 << 16)


@dataclass
class Server:
    """A server on loopback.

    Attributes:
        host: and port.
        open: connections that were lied on, and are served still.
        sent_bytes: by `pour`.
    """

    host: str
    open: set[socket.socket] = field(default_factory=set)
    sent_bytes: int = 0

    def pour(self, connection: socket.socket, block: bytes = _BLOCK, *, pause_s: float = 0) -> None:
        """Send a block again and again, until the other side ends the connection."""
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(block)
                self.sent_bytes += len(block)
                if pause_s:
                    time.sleep(pause_s)

    def await_end(self, within_s: float) -> float:
        """Seconds until the other side has ended all connections that were lied on."""
        began_s = time.monotonic()
        while self.open:
            assert time.monotonic() - began_s < within_s, f"{len(self.open)} are open still"
            time.sleep(0.01)
        return time.monotonic() - began_s


@contextmanager
def lying(
    handle: Callable[[Server, socket.socket, bytes], None], *, tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """A server that answers each request by a function of its own, in a thread for each."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        host, port = listening.getsockname()
        server = Server(f"{host}:{port}")
        stop = threading.Event()
        threads: list[threading.Thread] = []
        connections: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            try:
                with connection:
                    connection.settimeout(20)
                    wire = connection if tls is None else tls.wrap_socket(connection, True)
                    connections.append(wire)
                    with wire:
                        while request := _request(wire):
                            handle(server, wire, request)
            except OSError:
                pass
            finally:
                server.open.discard(connection)

        def accept() -> None:
            while not stop.is_set():
                connection, _ = listening.accept()
                server.open.add(connection)
                connections.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            stop.set()
            socket.create_connection((host, port)).close()
            accepting.join(10)
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)


def _request(wire: socket.socket) -> bytes:
    """What is there to read: of HTTP a request whole, which may come in parts; empty at the end."""
    request = wire.recv(1 << 20)
    head, _, body = request.partition(b"\r\n\r\n")
    while b" HTTP/1.1\r\n" in head and (b"\r\n\r\n" not in request or len(body) < _length(head)):
        more = wire.recv(1 << 20)
        if not more:
            break
        request += more
        head, _, body = request.partition(b"\r\n\r\n")
    return request


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def resident(name: str) -> int:
    """VmHWM or VmRSS of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


@dataclass
class Cost:
    """What a piece of work took.

    Attributes:
        seconds: of time.
        num_bytes: of memory, at its peak, beyond what there was.
    """

    seconds: float = 0.0
    num_bytes: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what runs meanwhile in this process, by the system's count (VmHWM)."""
    cost, before = Cost(), resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began_s = time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - began_s
    cost.num_bytes = resident("VmHWM") - before
