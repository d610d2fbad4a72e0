"""HTTP connections with limits: what comes beside bodies, and how long anything may take."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from cachegen.server.admission import Admission
from cachegen.server.limits import Limits

# Arbitrary: 16 KiB to 1 MiB do. A head of ours takes less than 2 KiB: a key, a parent, a token.
_FRAMING_BYTES = 64 << 10
# Arbitrary: 4 to 64 do. Bodies come in chunks of 128 bytes or more, then: six bytes or more of each
# are none of the body.
_BODY_BYTES_A_FRAMING_BYTE = 16
# Arbitrary: 50 to 500 do. A request of ours has ten, one through proxies twenty. A header costs
# 200 bytes of memory, however short.
_HEADERS = 128
# Arbitrary: 1 to 32 do. No client of ours sends a request before it has the answer to the last,
# but it may have that before the server has noted that it was sent.
_WAITING_REQUESTS = 4
# What waits to be sent. At most a piece more is added (`bodies.py`), and all of it has to go
# within `patience_s`. The default of asyncio for plain connections; for TLS it would be 512 KiB.
_UNSENT_BYTES = 64 << 10
# The name of a weak reference to the connection in the scope of its requests. A strong one would be
# a cycle, which keeps the buffers of a connection that has ended until a full collection: hours.
_SCOPE = "cachegen.connection"


class TooMuch(Exception):
    """A client sent more beside its bodies than is allowed."""


class LimitedConnection(HttpToolsProtocol):
    """A connection that is closed when its client sends too much beside bodies, or is too slow.

    Heads, chunk sizes and their extensions, and trailers draw on one allowance; bytes of a body
    give back a sixteenth. The headers of a request are counted, and trailers are dropped.

    Attributes:
        tenant: who holds the connection; None: nobody yet.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
        admission: Admission,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.tenant: str | None = None
        self._limits, self._admission = limits, admission
        self._shaking_hands: asyncio.Task[None] | None = None
        self._head, self._sending, self._end = (_Timer(self.loop) for _ in range(3))
        # Of requests that wait for one another uvicorn tells but the last that the client has left.
        self._cycles: list[RequestResponseCycle] = []
        self._in_head = False
        self._headers = 0
        self._allowance_bytes = _FRAMING_BYTES
        self._body_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing of a request or an answer is under way."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.pipeline and not self.transport.get_write_buffer_size()

    def enter(self, shaking_hands: asyncio.Task[None]) -> None:
        """Count the connection from now on, while this task makes a transport for it."""
        self._shaking_hands = shaking_hands
        self._admission.enter(self)

    def abort(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()
        elif self._shaking_hands is not None:
            self._shaking_hands.cancel()

    def leave(self) -> None:
        """Count the connection no more; it has ended, or never begun."""
        self._admission.leave(self)
        self.parser = None  # type: ignore[assignment]

    def claim(self, tenant: str) -> bool:
        """Make the connection a tenant's; False where there are too many."""
        claimed = self._admission.claim(self, tenant)
        self.tenant = tenant if claimed else None
        if claimed:
            self._head.stop()
            if self.client is not None:
                self._admission.newcomers.trust(self.client[0])
        else:
            self._close_soon()
        return claimed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait `head_s` for a valid token."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self._close_soon()
        self._end.start(self._limits.patience_s, self._watch_end)

    def shutdown(self) -> None:
        """End an idle connection at once, the others after their answer, as the server ends.

        Clients that keep idle connections do not read, so they would not say goodbye to TLS.
        """
        if self.idle:
            self.transport.abort()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and forget the requests, which refer to it; the connection has ended."""
        self.leave()
        for timer in (self._head, self._sending, self._end):
            timer.stop()
        self._unset_keepalive_if_required()
        for cycle in self._cycles:
            cycle.disconnected = True
        super().connection_lost(exc)
        self._cycles.clear()
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Take in bytes and count those that are none of a body.

        While no request is under way they begin a head, or are the rest of a refused body; either
        has to end within `head_s`.
        """
        self._body_bytes = 0
        super().data_received(data)
        given_back = self._body_bytes // _BODY_BYTES_A_FRAMING_BYTE
        spent = len(data) - self._body_bytes
        self._allowance_bytes = min(_FRAMING_BYTES, self._allowance_bytes + given_back) - spent
        if self._allowance_bytes < 0:
            self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            self._close_soon()

    def on_message_begin(self) -> None:
        """Begin to count what a request brings beside its body."""
        super().on_message_begin()
        self.scope[_SCOPE] = weakref.ref(self)  # type: ignore[literal-required]
        self._in_head, self._headers, self._allowance_bytes = True, 0, _FRAMING_BYTES

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of a head, and drop one of a trailer.

        Raises:
            TooMuch: there are too many.
        """
        self._headers += 1
        if self._headers > _HEADERS:
            self._refuse(f"expected at most {_HEADERS} headers")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer; a request's head is complete.

        Raises:
            TooMuch: too many requests wait for their turn.
        """
        self._in_head = False
        if len(self.pipeline) >= _WAITING_REQUESTS:
            self._refuse(f"expected at most {_WAITING_REQUESTS} requests to wait")
        if self.tenant is not None:
            self._head.stop()
        super().on_headers_complete()
        unanswered = (cycle for cycle in self._cycles if not cycle.response_complete)
        self._cycles = [*unanswered, self.cycle]

    def on_body(self, body: bytes) -> None:
        """Take bytes of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was written."""
        super().pause_writing()
        self._sending.start(self._limits.patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting; the client has taken nearly all."""
        self._sending.stop()
        super().resume_writing()

    def _refuse(self, reason: str) -> None:
        self.transport.abort()
        raise TooMuch(reason)

    def _close_soon(self) -> None:
        if not self.transport.is_closing():
            self._head.start(self._limits.head_s, self.transport.abort)

    def _watch_end(self) -> None:
        """Abort a connection that was closed `patience_s` ago, and waits for its client to read."""
        self._end.stop()
        due = self.transport.abort if self.transport.is_closing() else self._watch_end
        self._end.start(self._limits.patience_s, due)


class _Timer:
    """Something that is done later, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, delay_s: float, act: Callable[[], None]) -> None:
        """Begin to wait, if nothing is waited for yet."""
        if self._handle is None:
            self._handle = self._loop.call_later(delay_s, act)

    def stop(self) -> None:
        """Wait no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def connection_of(scope: Any) -> LimitedConnection | None:
    """The connection that a request came on; None where another server serves the application."""
    found = scope.get(_SCOPE)
    connection = None if found is None else found()
    return connection if isinstance(connection, LimitedConnection) else None
