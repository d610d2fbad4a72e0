from __future__ import annotations

import threading

import pytest

from cachegen.contexts.lookup import within
from cachegen.errors import KeyNotFound, LoadCancelled, StoreTimeout


def test_an_answer_and_an_error_come_through() -> None:
    assert within(10.0, lambda: 7) == 7
    with pytest.raises(KeyNotFound, match="gone"):
        within(10.0, fail_with(KeyNotFound("gone")))
    with pytest.raises(TimeoutError, match="its own"):
        within(10.0, fail_with(TimeoutError("its own")))


def test_a_call_that_hangs_is_left_alone() -> None:
    hold = threading.Event()
    with pytest.raises(StoreTimeout, match=r"within 0\.02 s"):
        within(0.02, lambda: hold.wait(10))
    hold.set()


def test_a_call_that_is_not_wanted_any_more() -> None:
    hold, cancel = threading.Event(), threading.Event()
    cancel.set()
    with pytest.raises(LoadCancelled):
        within(10.0, lambda: hold.wait(10), cancel=cancel)
    hold.set()


def fail_with(error: Exception):
    def fail() -> None:
        raise error

    return fail
