"""HTTP connections with limits: how many there are, and time and size of a request's head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

# Arbitrary: 16 KiB to 1 MiB do. A head of ours takes less than 2 KiB: a key, a parent, a token.
_HEAD_BYTES = 64 << 10
_FULL_BODY = b'{"error": "too many connections: try again later"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)


class LimitedConnection(HttpToolsProtocol):
    """A connection that is closed when its client sends no complete request in time.

    The configuration's `limit_concurrency` is the most connections at once. One beyond it is
    refused; the others go on.

    Attributes:
        head_s: the longest time for a request's head, or for the rest of a refused body.
    """

    # Arbitrary: 5 to 60 s do; slow clients that send a head byte by byte hold no connection longer.
    head_s = 10.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._max_connections, self.limit_concurrency = config.limit_concurrency, None
        self._closing: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse the connection if there are too many, else wait `head_s` for a request."""
        super().connection_made(transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            transport.write(_FULL)
            transport.close()
        else:
            self._close_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer; the connection has ended."""
        self._stay()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in bytes and limit the size of a head.

        While no request is under way the bytes begin a head or are the rest of a refused body;
        either has to end within `head_s`.
        """
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > _HEAD_BYTES:
            self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            self._close_soon()

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a request's head."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Stop the timer; a request's head is complete."""
        self._in_head = False
        self._stay()
        super().on_headers_complete()

    def _close_soon(self) -> None:
        if self._closing is None and not self.transport.is_closing():
            self._closing = self.loop.call_later(self.head_s, self.transport.abort)

    def _stay(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
