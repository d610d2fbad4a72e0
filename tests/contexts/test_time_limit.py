from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest

from cachegen.contexts.time_limit import begun, within
from cachegen.errors import KeyNotFound, LoadCancelled, StoreError, StoreTimeout
from cachegen.store.protocol import interruptible


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


def test_what_was_begun_beside_an_answer_ends_soon() -> None:
    """Another request of a lookup may end by itself, so that its connection is kept."""
    shut = threading.Event()

    def beside() -> None:
        with suppress(StoreError), interruptible(shut.set):
            shut.wait(10)

    def ask() -> int:
        begun(beside)
        time.sleep(0.05)
        return 7

    began_s = time.monotonic()
    assert within(10.0, ask) == 7
    assert not shut.is_set()
    assert shut.wait(1.0)
    assert 0.4 < time.monotonic() - began_s < 1.0


def test_what_was_begun_beside_nothing_ends_at_once() -> None:
    shut = threading.Event()

    def ask() -> None:
        with interruptible(shut.set):
            shut.wait(10)

    with pytest.raises(StoreTimeout):
        within(0.05, ask)
    assert shut.is_set()
