"""Bodies in and out: blocking stores on one side, an event loop on the other, little in memory."""

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

PIECE_BYTES = 256 << 10
IN_MEMORY_BYTES = 1 << 20
_STALL_S = 300.0


def declared_size(request: Request, *, max_bytes: int) -> int | None:
    """The size of a request's body; None where it is told only in the end.

    Raises:
        HTTPException: it is larger than allowed (413).
    """
    declared = request.headers.get("content-length")
    if declared is None:
        return None
    check_size(int(declared), max_bytes)
    return int(declared)


async def receive_body(request: Request, into: IO[bytes], *, max_bytes: int) -> int:
    """Take in a request's body; how many bytes it had.

    Raises:
        HTTPException: it is larger than allowed (413), or it stalls (408).
        ClientDisconnect: it never ends.
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
    """Where a body waits until it is whole: memory while it is small, then a nameless file."""
    return tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)


class Uploads:
    """Room for the bodies of all requests together, until they are stored."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Set room aside while the context lasts.

        Raises:
            HTTPException: others hold it (503).
        """
        if size_bytes > self._free_bytes:
            raise HTTPException(503, "too many uploads at once: try again later")
        self._free_bytes -= size_bytes
        try:
            yield
        finally:
            self._free_bytes += size_bytes


class Sending:
    """Sends buffers as fast as the client takes them, without a mark of the end."""

    def __init__(self, send: Send, receive: Receive) -> None:
        self.sent_bytes = 0
        self._send = send
        self._gone = asyncio.ensure_future(_disconnected(receive))

    async def send(self, buffer: Buffer) -> None:
        """Send a buffer.

        Raises:
            ClientDisconnect: nobody is there any more, or nothing was taken for too long.
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
        """Wait for the client's leaving no more."""
        self._gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _pieces(buffer: Buffer) -> Iterator[bytes]:
    view = memoryview(buffer)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
