"""Clients that only bytes make: what no library would send; and what a server's process takes."""

from __future__ import annotations

import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MB = 10**6


def dial(server, *, timeout_s: float = 10.0) -> socket.socket:
    """A connection to a server, without TLS."""
    host, _, port = server.host.partition(":")
    return socket.create_connection((host, int(port)), timeout=timeout_s)


def small_socket(server) -> socket.socket:
    """A connection with small buffers at this end."""
    host, _, port = server.host.partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.settimeout(10)
    connection.connect((host, int(port)))
    return connection


@contextmanager
def asking_slowly(server, path: str, *, token: str = "") -> Iterator[socket.socket]:
    """A client that has asked for an object and takes none of it."""
    with small_socket(server) as connection:
        connection.sendall(head("GET", path, token=token))
        yield connection


def head(method: str, path: str, *lines: str, token: str = "") -> bytes:
    """The head of a request."""
    given = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *given, *lines, "", ""]).encode()


def ask(server, sent: bytes) -> bytes:
    """The first line that comes back; empty where the connection ends."""
    with dial(server) as connection:
        connection.sendall(sent)
        return answer_on(connection)


def answer_on(connection: socket.socket) -> bytes:
    """The first line of an answer."""
    try:
        return connection.recv(4096).partition(b"\r\n")[0]
    except OSError:
        return b""


def pour(connection: socket.socket, piece: bytes, *, max_bytes: int) -> int:
    """Send a piece over and over until the connection breaks; the bytes sent."""
    sent_bytes = 0
    try:
        while sent_bytes < max_bytes:
            connection.sendall(piece)
            sent_bytes += len(piece)
    except OSError:
        pass
    return sent_bytes


def ended(connection: socket.socket, *, within_s: float) -> bool:
    """Whether the other side ends the connection in time, whatever comes before."""
    give_up_s = time.monotonic() + within_s
    while (left_s := give_up_s - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(1 << 20):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def dribble(connection: socket.socket, piece: bytes, *, within_s: float) -> float:
    """Send a piece every 50 ms; the seconds until the connection breaks, or more than allowed."""
    began_s = time.monotonic()
    try:
        while time.monotonic() - began_s < within_s:
            connection.sendall(piece)
            time.sleep(0.05)
    except OSError:
        pass
    return time.monotonic() - began_s


def files_of(server) -> int:
    """The files that a server has open, connections among them."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def eventually(holds: Callable[[], bool], *, within_s: float = 5.0) -> bool:
    """Whether something comes to hold in time."""
    give_up_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def growth_below(server, limit_mb: float) -> Iterator[None]:
    """Fail where a server's largest resident size meanwhile is too far above that at the start."""
    status = Path(f"/proc/{server.process.pid}/status")
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak begins anew

    def peak_mb() -> float:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) * 1024 / MB

    before_mb = peak_mb()
    yield
    grown_mb = peak_mb() - before_mb
    assert grown_mb < limit_mb


def speaking(first: ssl.TLSVersion, last: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's side of TLS that believes everybody and speaks these versions."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version, context.maximum_version = first, last
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context
