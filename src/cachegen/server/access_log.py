"""A wrapper around the application that counts every request and can log it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cachegen.server.metrics import Metrics
from cachegen.store.protocol import MAX_KEY_LENGTH

# A bound on a line, as every character may become `\\u1234`: 4 KB. No key is longer, and no method.
_MAX_PATH = MAX_KEY_LENGTH + 1
_MAX_METHOD = 16
_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass(slots=True)
class _Request:
    began_s: float
    status: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AccessLog:
    """The application with metrics of its requests; with `logs` also a JSON line for each."""

    app: ASGIApp
    metrics: Metrics
    logs: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI request and count it when it has ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(time.perf_counter())

        async def counted_receive() -> Message:
            message = await receive()
            request.received_bytes += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            request.status = message.get("status", request.status)
            request.sent_bytes += len(message.get("body", b""))
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, counted_receive, counted_send)
            finally:
                self._count(scope, request)

    def _count(self, scope: Scope, request: _Request) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        elapsed_s = time.perf_counter() - request.began_s
        self.metrics.requests.labels(method, str(request.status)).inc()
        self.metrics.duration_s.labels(method).observe(elapsed_s)
        self.metrics.received_bytes.inc(request.received_bytes)
        self.metrics.sent_bytes.inc(request.sent_bytes)
        if self.logs:
            print(_line(scope, request, elapsed_s), file=sys.stderr, flush=True)


def _line(scope: Scope, request: _Request, elapsed_s: float) -> str:
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "tenant": scope.get("tenant", ""),
        "method": scope["method"][:_MAX_METHOD],
        "path": scope["path"][:_MAX_PATH],
        "status": request.status,
        "received_bytes": request.received_bytes,
        "sent_bytes": request.sent_bytes,
        "elapsed_s": round(elapsed_s, 6),
    }
    return json.dumps(fields)
