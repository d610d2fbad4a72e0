"""Time limits for calls that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from cachegen.errors import LoadCancelled, StoreTimeout

Answer = TypeVar("Answer")
# How late a cancellation is noticed. Arbitrary: 0.01 to 0.2 s does.
_POLL_S = 0.05


def begun(call: Callable[[], Answer]) -> Future[Answer]:
    """Start a call in a daemon thread, and return the future of its result."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="cachegen-lookup", daemon=True).start()
    return answer


def within(
    seconds: float, call: Callable[[], Answer], *, cancel: threading.Event | None = None
) -> Answer:
    """The result of a call within a time limit, after which it goes on in a daemon thread.

    Raises:
        StoreTimeout: the call took longer.
        LoadCancelled: ``cancel`` was set meanwhile.
    """
    answer = begun(call)
    deadline_s = time.monotonic() + seconds
    while (left_s := deadline_s - time.monotonic()) > 0:
        if wait([answer], timeout=min(left_s, _POLL_S)).done:
            return answer.result()
        if cancel is not None and cancel.is_set():
            raise LoadCancelled("the load was cancelled")
    raise StoreTimeout(f"the store gave no answer within {seconds} s")
