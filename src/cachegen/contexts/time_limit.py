"""Calls of stores that end within a time limit, or with the load that they are for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from cachegen.errors import LoadCancelled, StoreTimeout
from cachegen.store.protocol import Hangup, current

Answer = TypeVar("Answer")
# How late a cancellation is noticed. Arbitrary: 0.01 to 0.2 s does.
_POLL_S = 0.05


def begun(call: Callable[[], Answer]) -> Future[Answer]:
    """Start a call in a daemon thread, and return the future of its result.

    What it waits for at stores ends with what this thread waits for.
    """
    answer: Future[Answer] = Future()
    hangup = current() or Hangup()

    def run() -> None:
        try:
            with hangup.heeded():
                answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="cachegen-lookup", daemon=True).start()
    return answer


def within(
    seconds: float, call: Callable[[], Answer], *, cancel: threading.Event | None = None
) -> Answer:
    """The result of a call within a time limit.

    It runs in a daemon thread, whose waits for stores, and those of threads that it has begun, are
    ended with this function; after a result they have half a second.

    Raises:
        StoreTimeout: the call took longer.
        LoadCancelled: ``cancel`` was set meanwhile.
    """
    hangup = Hangup()
    with hangup.heeded():
        answer = begun(call)
    deadline_s, is_answered = time.monotonic() + seconds, False
    try:
        while (left_s := deadline_s - time.monotonic()) > 0:
            is_answered = bool(wait([answer], timeout=min(left_s, _POLL_S)).done)
            if is_answered:
                return answer.result()
            if cancel is not None and cancel.is_set():
                raise LoadCancelled("the load was cancelled")
        raise StoreTimeout(f"the store gave no answer within {seconds} s")
    finally:
        if is_answered:
            hangup.end_soon()
        else:
            hangup.end()
