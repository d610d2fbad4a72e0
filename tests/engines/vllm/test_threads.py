from __future__ import annotations

import os
from functools import partial

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


def test_a_thread_that_keeps_away_shares_no_core_with_the_engine(bound) -> None:
    found: list[set[int]] = []

    def look() -> None:
        found.append(os.sched_getaffinity(0))

    start_thread(look, name="a", keeps_away=True).join()
    os.sched_setaffinity(0, CORES)
    start_thread(look, name="a", keeps_away=True).join()
    assert found == [CORES - {min(CORES)} or CORES, CORES]


def test_no_thread_gives_way_while_it_holds_the_interpreter() -> None:
    found: list[int] = []
    look = partial(os.getpriority, os.PRIO_PROCESS, 0)
    start_thread(lambda: found.append(look()), name="a").join()
    assert found == [look()]


def test_errors_come_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        on_any_core(fail)
