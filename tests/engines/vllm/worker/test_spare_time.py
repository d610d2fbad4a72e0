from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.engines.vllm.worker import spare_time
from cachegen.engines.vllm.worker.spare_time import SpareTime

QUIET_S, PATIENCE_S, REST = spare_time._QUIET_S, spare_time._PATIENCE_S, spare_time._BUSY_REST


class Clock:
    """Time that passes where somebody waits or works; what happens when is told before."""

    def __init__(self) -> None:
        self.now_s = self.worked_s = 0.0
        self.events: list[tuple[float, object]] = []

    def monotonic(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return self.worked_s

    def work(self, seconds: float) -> None:
        self.worked_s += seconds
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.events and self.events[0][0] <= end_s:
            self.now_s, happen = self.events.pop(0)
            happen()
        self.now_s = end_s


class Ended:
    """In place of an event: waiting lets time pass."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.is_over = clock, False

    def is_set(self) -> bool:
        return self.is_over

    def set(self) -> None:
        self.is_over = True

    def wait(self, seconds: float) -> None:
        self.clock.pass_by(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(spare_time, "time", found)
    return found


def spare(clock: Clock) -> SpareTime:
    made = SpareTime()
    made._ended = Ended(clock)
    return made


def waited(clock: Clock, made: SpareTime) -> float:
    began_s = clock.now_s
    made.wait()
    return clock.now_s - began_s


def test_beside_an_idle_engine_nobody_waits(clock: Clock) -> None:
    made = spare(clock)
    for _ in range(3):
        assert waited(clock, made) == 0
        clock.work(0.5)


def test_a_step_is_waited_for_and_what_follows_at_once(clock: Clock) -> None:
    made = spare(clock)
    made.step_began()
    clock.events = [(0.1, made.step_ended), (0.11, made.step_began), (0.2, made.step_ended)]
    assert waited(clock, made) == pytest.approx(0.2 + QUIET_S, abs=QUIET_S)


def test_beside_an_engine_that_never_rests_a_third_is_taken(clock: Clock) -> None:
    made = spare(clock)
    made.step_began()
    assert waited(clock, made) == pytest.approx(PATIENCE_S)
    for seconds in (0.1, 0.001, 0.4):
        clock.work(seconds)
        assert waited(clock, made) == pytest.approx(REST * seconds)


def test_waiting_for_a_store_is_no_work(clock: Clock) -> None:
    made = spare(clock)
    made.step_began()
    made.wait()
    clock.work(0.1)
    clock.pass_by(5.0)
    assert waited(clock, made) == pytest.approx(REST * 0.1)


def test_what_comes_after_a_pause_waits_longer(clock: Clock) -> None:
    made = spare(clock)
    made.step_began()
    for _ in range(3):
        made.pause()
        made.pause()
        assert waited(clock, made) == pytest.approx(PATIENCE_S)


def test_at_the_end_nobody_waits(clock: Clock) -> None:
    made = spare(clock)
    made.step_began()
    clock.events = [(0.3, made.end)]
    assert waited(clock, made) <= 0.3 + QUIET_S
    clock.work(10.0)
    assert waited(clock, made) == 0


@given(
    st.lists(
        st.tuples(st.floats(0.001, 3.0), st.floats(0.0, 0.1), st.floats(0.001, 0.5)), min_size=1
    )
)
@settings(max_examples=50, deadline=None)
def test_work_goes_on_whatever_the_engine_does(turns) -> None:
    """Steps and gaps of any lengths: no wait is longer than owed, and none in a step shorter."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spare_time, "time", clock)
        made, at_s, owed_s = spare(clock), 0.0, PATIENCE_S
        for step_s, gap_s, _ in turns:
            clock.events += [(at_s, made.step_began), (at_s + step_s, made.step_ended)]
            at_s += step_s + gap_s
        clock.pass_by(0.0)
        for *_, work_s in turns:
            took_s = waited(clock, made)
            assert took_s <= owed_s + 1e-6
            assert not made._is_computing or took_s >= owed_s - 1e-6
            clock.work(work_s)
            owed_s = REST * work_s
