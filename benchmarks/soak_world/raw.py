"""A socket with TLS that sends what no library would, and reads the beginning of an answer."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from cachegen.netem.relay import LOOPBACK

# What begins a handshake: a record of 512 bytes, of which only the head comes.
HALF_HANDSHAKE = bytes([22, 3, 1, 2, 0, 1])
_RESETS = struct.pack("ii", 1, 0)


@contextmanager
def dial(port: int) -> Iterator[socket.socket]:
    """A connection without TLS."""
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        yield connection


@contextmanager
def dial_tls(port: int) -> Iterator[ssl.SSLSocket]:
    """A connection by TLS."""
    with dial(port) as connection:
        trust = ssl.create_default_context()
        with trust.wrap_socket(connection, server_hostname=LOOPBACK) as wrapped:
            yield wrapped


def head(method: str, key: str, token: str, *lines: str) -> bytes:
    """The head of a request."""
    given = ("Host: soak", f"Authorization: Bearer {token}", *lines)
    return "\r\n".join((f"{method} /{key} HTTP/1.1", *given, "", "")).encode()


def chunked(body: bytes, *trailers: str, piece_bytes: int = 20_000) -> bytes:
    """A body in chunked transfer coding, with trailers."""
    pieces = (body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes))
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return coded + "\r\n".join(("0", *trailers, "", "")).encode()


def status_of(connection: socket.socket) -> int | None:
    """The status of an answer; None where the connection ends before."""
    line = connection.recv(4096).partition(b"\r\n")[0].split()
    return int(line[1]) if len(line) > 1 else None


def reset(connection: ssl.SSLSocket) -> None:
    """End a connection without goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    connection.close()
