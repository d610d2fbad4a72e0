"""Bodies of requests and responses, moved between an event loop and blocking stores in pieces."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send

from cachegen.store import Buffer

# Arbitrary: 64 KiB to 1 MiB do. Between two pieces a client that has left is noticed.
PIECE_BYTES = 256 << 10
# Arbitrary: 256 KiB to 8 MiB do. Smaller bodies wait in memory, those of 512 clients in 512 MiB.
IN_MEMORY_BYTES = 1 << 20
# Arbitrary: 60 to 600 s do; longer than a client's own limit of 30 s (`open_store`).
_STALL_S = 300.0


def declared_size(request: Request, *, max_bytes: int) -> int | None:
    """The size of a request's body in bytes; None where the request has no Content-Length.

    Raises:
        HTTPException: the body is larger than allowed (413).
    """
    declared = request.headers.get("content-length")
    if declared is None:
        return None
    check_size(int(declared), max_bytes)
    return int(declared)


async def receive_body(request: Request, into: IO[bytes], *, max_bytes: int) -> int:
    """Write a request's body to a file and return its size in bytes.

    Raises:
        HTTPException: the body is larger than allowed (413), or nothing came for too long (408).
        ClientDisconnect: the client left before the end.
    """
    size_bytes = 0
    pieces = request.stream()
    while True:
        try:
            async with asyncio.timeout(_STALL_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise HTTPException(408, f"expected the next bytes within {_STALL_S:.0f} s") from None
        if piece is None:
            return size_bytes
        size_bytes += len(piece)
        check_size(size_bytes, max_bytes)
        if size_bytes > IN_MEMORY_BYTES:
            await run_in_threadpool(into.write, piece)
        else:
            into.write(piece)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Refuse a body that is too large.

    Raises:
        HTTPException: 413.
    """
    if size_bytes > max_bytes:
        raise HTTPException(413, f"expected at most {max_bytes} bytes, got {size_bytes} or more")


def make_spool() -> tempfile.SpooledTemporaryFile[bytes]:
    """A file for a body that is being received: in memory while small, then on disk, nameless."""
    return tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)


class Uploads:
    """Limits the bytes of all bodies that are received and not stored yet."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Reserve bytes while the context lasts.

        Raises:
            HTTPException: other uploads have reserved too many (503).
        """
        if size_bytes > self._free_bytes:
            raise HTTPException(503, "too many uploads at once: try again later")
        self._free_bytes -= size_bytes
        try:
            yield
        finally:
            self._free_bytes += size_bytes


class Sending:
    """Sends buffers as fast as the client takes them; the caller sends the end of the response."""

    def __init__(self, send: Send, receive: Receive) -> None:
        self.sent_bytes = 0
        self._send = send
        self._gone = asyncio.ensure_future(_disconnected(receive))

    async def send(self, buffer: Buffer) -> None:
        """Send a buffer.

        Raises:
            ClientDisconnect: the client has left, or took nothing for too long.
        """
        for piece in _pieces(buffer):
            message = {"type": "http.response.body", "body": piece, "more_body": True}
            try:
                async with asyncio.timeout(_STALL_S):
                    await self._send(message)
            except TimeoutError:
                raise ClientDisconnect from None
            if self._gone.done():
                raise ClientDisconnect
            self.sent_bytes += len(piece)

    def end(self) -> None:
        """Stop watching whether the client leaves."""
        self._gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _pieces(buffer: Buffer) -> Iterator[bytes]:
    view = memoryview(buffer)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
