"""Calls that may hang, given a limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from cachegen.errors import StoreTimeout

Answer = TypeVar("Answer")


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What the call gives or raises; it goes on in a thread of its own when time is up.

    Raises:
        StoreTimeout: it took longer.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="cachegen-lookup", daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise StoreTimeout(f"the store gave no answer within {seconds} s") from None
