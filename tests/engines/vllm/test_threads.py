from __future__ import annotations

import os
import threading

import pytest

from cachegen.engines.vllm.threads import on_any_core, start_thread

CORES = os.sched_getaffinity(0)


@pytest.fixture
def bound():
    """The calling thread is bound to one core, as vLLM binds its workers."""
    os.sched_setaffinity(0, {min(CORES)})
    yield
    os.sched_setaffinity(0, CORES)


def test_threads_leave_the_core_of_the_engine(bound) -> None:
    found: list[set[int]] = []
    start_thread(lambda: found.append(os.sched_getaffinity(0)), name="a").join()
    assert found == [CORES]
    assert on_any_core(lambda: os.sched_getaffinity(0)) == CORES
    assert os.sched_getaffinity(0) == {min(CORES)}


def test_a_nice_thread_gives_way() -> None:
    found: list[int] = []

    def look() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    start_thread(look, name="a", is_nice=True).join()
    assert found[0] >= 10
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) <= found[0]


def test_errors_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        on_any_core(fail)
