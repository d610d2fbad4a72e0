"""Threads beside the engine's, which may run on any core.

vLLM's CPU backend binds a worker to the cores that its model computes on, and threads that it
starts inherit that: whatever decodes would take turns with the model while other cores idle.

None is nicer than the engine's: one that holds the interpreter and gets no core holds up them all
(0.1 s in place of 15 ms beside other programs; docs/LOG.md, 2026-11-30).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

Value = TypeVar("Value")


def start_thread(
    work: Callable[[], None], *, name: str, keeps_away: bool = False
) -> threading.Thread:
    """Start a daemon thread on any core.

    Args:
        work: of the thread.
        name: of the thread.
        keeps_away: not on those that the calling thread is bound to, where there are others.
    """

    def run() -> None:
        leave_cores(keeps_away=keeps_away)
        work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def on_any_core(call: Callable[[], Value]) -> Value:
    """The result of a call that counts cores: the calling thread may be bound to few."""
    answer: Future[Value] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    start_thread(run, name="cachegen-vllm-start").join()
    return answer.result()


def leave_cores(*, keeps_away: bool = False) -> None:
    """Let the calling thread, and those that it starts, run on every core of its container.

    One that ``keeps_away`` takes only those that it is not bound to now, if there are any.
    """
    with suppress(OSError, AttributeError):  # what the system refuses stays as it is
        allowed = _allowed()
        others = allowed - os.sched_getaffinity(0) if keeps_away else set()
        os.sched_setaffinity(0, others or allowed)


def _allowed() -> set[int]:
    """The cores of the process that began this one, which nobody has bound yet; else all."""
    with suppress(OSError, AttributeError):
        parents = os.sched_getaffinity(os.getppid())
        if len(parents) > len(os.sched_getaffinity(0)):
            return parents
    return set(range(os.cpu_count() or 1))
