"""Calls that may hang, given a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from cachegen.errors import LoadCancelled, StoreTimeout

Answer = TypeVar("Answer")
_POLL_S = 0.05


def begun(call: Callable[[], Answer]) -> Future[Answer]:
    """What the call will give or raise, from a thread that no one waits for at exit."""
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
    """What the call gives or raises; it goes on in a thread of its own when time is up.

    Raises:
        StoreTimeout: it took longer.
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
