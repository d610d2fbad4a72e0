"""Bodies of requests and responses, moved between an event loop and blocking stores in pieces."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send

from cachegen.store import Buffer

# Arbitrary: 64 KiB to 1 MiB do. Each has to come within `Limits.patience_s`.
PIECE_BYTES = 256 << 10
# What is given to a connection at once; between two a client that has left is noticed. TLS keeps a
# buffer of four thirds of it for as long as the connection lasts. 32 to 256 KiB are equally fast.
_SENT_BYTES = 64 << 10
# Arbitrary: 256 KiB to 8 MiB do. Smaller bodies wait in memory, those of 512 clients in 512 MiB.
IN_MEMORY_BYTES = 1 << 20


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


async def pieces_of(
    request: Request, *, check: Callable[[int], None], patience_s: float
) -> AsyncIterator[bytes]:
    """The pieces of a request's body as they come; ``check`` is given the bytes so far.

    Only the time that the client lets the server wait counts. A client has `patience_s` of it, and
    what it sends gives it back by `patience_s` for each `PIECE_BYTES`.

    Raises:
        HTTPException: the client is too slow (408).
        ClientDisconnect: the client left before the end.
    """
    size_bytes, left_s, pieces = 0, patience_s, request.stream()
    while True:
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                piece = await anext(pieces, b"")
        except TimeoutError:
            raise _too_slow(patience_s) from None
        if not piece:
            return
        size_bytes += len(piece)
        check(size_bytes)
        earned_s = len(piece) * patience_s / PIECE_BYTES
        left_s = min(patience_s, left_s - (time.monotonic() - asked_s) + earned_s)
        yield piece


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


class Sending:
    """Sends buffers as fast as the client takes them; the caller sends the end of the response.

    The connection ends where the client takes too little (`LimitedConnection`).
    """

    def __init__(self, send: Send, receive: Receive) -> None:
        self.sent_bytes = 0
        self._send = send
        self._gone = asyncio.ensure_future(_disconnected(receive))

    async def send(self, buffer: Buffer) -> None:
        """Send a buffer.

        Raises:
            ClientDisconnect: the client has left.
        """
        for piece in _pieces(buffer):
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
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
    for start in range(0, len(view), _SENT_BYTES):
        yield bytes(view[start : start + _SENT_BYTES])


def _too_slow(patience_s: float) -> HTTPException:
    reason = f"expected {PIECE_BYTES} bytes, or the end of the body, within {patience_s:.0f} s"
    return HTTPException(408, reason, headers={"Connection": "close"})
