"""Errors as responses, a status and a JSON object that says what was wrong, and as log lines."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.server.objects.bounded_store import KeyConflict
from cachegen.server.ranges import RangeBehindEnd

_LOG = logging.getLogger("cachegen.server")
# Arbitrary: 10 to 1,000 lines in 10 s to 10 min do; they show what is wrong, the metrics how often.
# A line has 2 KB at most: two keys and a reason. A day then has 58 MB.
_LINES = 20
_WINDOW_S = 60.0


class FewLines(logging.Filter):
    """A filter of a log that clients cannot fill, however often they make the server complain.

    The first lines of every minute pass; the next one that does says how many did not.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._began_s = clock()
        self._passed = self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if self._clock() - self._began_s >= _WINDOW_S:
            self._began_s, self._passed = self._clock(), 0
        self._passed += 1
        if self._passed > _LINES:
            self._dropped += 1
            return False
        if self._dropped:
            record.msg, record.args = f"{record.getMessage()} (and {self._dropped} more)", ()
            self._dropped = 0
        return True


def _answer(status: int, reason: str, **headers: str) -> Response:
    return JSONResponse({"error": reason}, status, headers=headers)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _behind_end(_: Request, error: Exception) -> Response:
    assert isinstance(error, RangeBehindEnd)
    return _answer(416, str(error), **{"Content-Range": f"bytes */{error.size_bytes}"})


def _not_found(_: Request, error: Exception) -> Response:
    return _answer(404, "there is no such object")


def _conflict(_: Request, error: Exception) -> Response:
    return _answer(
        409, "the key goes on where another one ends, or another one goes on where it ends"
    )


def _store_failed(request: Request, error: Exception) -> Response:
    """Log the store's message and do not send it: it may name addresses and other tenants."""
    _LOG.warning("%s %s: %s", request.method, request.url.path, error)
    if isinstance(error, StoreFull):
        return _answer(507, "no room for the object: a quota, the capacity or the disk is used up")
    if isinstance(error, StoreDenied):
        return _answer(403, "the store behind this server can only be read, or refuses the server")
    if isinstance(error, StoreTimeout):
        return _answer(504, "the store behind this server did not answer in time")
    return _answer(502, "the store behind this server failed")


def _system_failed(request: Request, error: Exception) -> Response:
    """A failure of the system, such as a full disk while a body is received."""
    assert isinstance(error, OSError)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return _store_failed(request, (StoreFull if full else StoreError)(str(error)))


def _left(_: Request, error: Exception) -> Response:
    return _answer(400, "the client left before the body was whole")


FAILURES: dict[int | type[Exception], ExceptionHandler] = {
    HTTPException: _refused,
    RangeBehindEnd: _behind_end,
    KeyNotFound: _not_found,
    KeyConflict: _conflict,
    StoreError: _store_failed,
    OSError: _system_failed,
    ClientDisconnect: _left,
}
