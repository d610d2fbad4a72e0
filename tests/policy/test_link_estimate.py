"""The throughput of a link."""

from __future__ import annotations

import random

import pytest

from cachegen.policy.link_estimate import LinkEstimate, Throughput

RATE = 2e6


class Line:
    """A transfer on a link, on virtual time."""

    def __init__(self, prior: float | None = None, *, wait_s: float = 0.01) -> None:
        self.estimate = Throughput(prior)
        self.now_s = 100.0
        self.wait_s = wait_s
        self.begin()

    def begin(self) -> None:
        self.estimate.begin(self.now_s)
        self.now_s += self.wait_s
        self.estimate.arrived(1000, self.now_s, first=True)

    def flow(self, seconds: float, rate: float = RATE, *, every_s: float = 0.002) -> float:
        for _ in range(round(seconds / every_s)):
            self.now_s += every_s
            self.estimate.arrived(round(rate * every_s), self.now_s)
        return self.expected()

    def silence(self, seconds: float) -> float:
        self.now_s += seconds
        return self.expected()

    def end(self, *, answered: bool = True) -> None:
        self.estimate.end(self.now_s, answered=answered)

    def expected(self) -> float:
        found = self.estimate.bytes_per_s(self.now_s)
        assert found is not None
        return found


@pytest.mark.parametrize("rate", (1e5, 1e6, 1e8, 1e10))
def test_a_steady_link_is_known_soon(rate: float):
    assert Line().flow(0.5, rate) == pytest.approx(rate, rel=0.01)


def test_nothing_is_known_before_anything_came():
    estimate = Throughput()
    assert estimate.bytes_per_s(0.0) is None
    estimate.begin(0.0)
    assert estimate.bytes_per_s(0.1) is None
    estimate.arrived(2000, 0.2, first=True)
    assert estimate.bytes_per_s(0.2) is None


def test_a_burst_at_the_start_does_not_count():
    line = Line()
    line.now_s += 1e-6
    line.estimate.arrived(12_000, line.now_s)
    assert line.estimate.bytes_per_s(line.now_s) is None
    assert line.flow(0.1) == pytest.approx(RATE, rel=0.05)


def test_a_link_that_dribbles_is_known_before_the_burst_is_over():
    """At 128 bytes a second that would take two minutes."""
    estimate = Throughput()
    estimate.begin(100.0)
    for number in range(20):
        now_s = 100.1 + number / 16
        estimate.arrived(8, now_s, first=number == 0)
        assert (estimate.bytes_per_s(now_s) is None) == (number <= 8)
    assert estimate.bytes_per_s(now_s) == pytest.approx(128, rel=0.2)


def test_a_change_is_seen_within_half_a_second():
    line = Line()
    line.flow(2.0)
    assert line.flow(0.5, RATE / 10) < RATE / 5
    assert line.flow(0.5, RATE) > RATE / 2


def test_silence_lowers_the_estimate_while_a_transfer_is_under_way():
    line = Line()
    before = line.flow(0.5)
    assert line.silence(0.1) < 0.7 * before
    assert line.silence(2.0) < 0.01 * before


def test_silence_between_transfers_does_not():
    line = Line()
    before = line.flow(0.5)
    line.end()
    assert line.silence(10.0) == before
    line.begin()
    assert line.expected() == pytest.approx(before)


def test_the_wait_for_the_first_byte_is_kept_apart():
    line = Line(wait_s=0.05)
    for _ in range(20):
        line.flow(0.02)
        line.end()
        line.begin()
    assert line.expected() == pytest.approx(RATE, rel=0.05)
    assert line.estimate.request_s == pytest.approx(0.05)


def test_what_was_asked_for_ahead_is_neither_silence_nor_a_wait():
    line = Line(wait_s=0.05)
    before = line.flow(0.3)
    for _ in range(20):
        line.estimate.begin(line.now_s)
        line.flow(0.01)
        line.end()
        line.now_s += 0.02
        line.estimate.arrived(1000, line.now_s, first=True)
        line.flow(0.01)
    assert line.expected() == pytest.approx(before, rel=0.05)
    assert line.estimate.request_s == pytest.approx(0.05)


def test_a_wait_far_beyond_the_usual_counts_as_silence():
    line = Line(wait_s=0.01)
    before = line.flow(0.5)
    line.end()
    line.estimate.begin(line.now_s)
    assert line.silence(0.02) == pytest.approx(before)
    assert line.silence(1.0) < 0.05 * before


def test_a_transfer_that_ends_without_a_byte_leaves_its_mark():
    line = Line()
    before = line.flow(0.5)
    line.end()
    line.estimate.begin(line.now_s)
    line.now_s += 5.0
    line.end(answered=False)
    assert line.expected() < 0.01 * before


def test_what_was_known_earlier_fades():
    line = Line(prior=50 * RATE)
    assert line.expected() == 50 * RATE
    assert line.flow(0.1) < 35 * RATE
    assert line.flow(1.0) == pytest.approx(RATE, rel=0.1)


def test_transfers_at_once_count_together():
    line = Line()
    line.begin()
    before = line.flow(0.3)
    line.end()
    assert line.flow(0.3) == pytest.approx(before, rel=0.01)
    assert line.silence(0.2) < 0.5 * before


def test_chunks_that_come_in_one_piece_are_measured_by_the_next():
    line = Line()
    for _ in range(50):
        line.now_s += 0.032
        line.estimate.arrived(64_000, line.now_s)
    assert line.expected() == pytest.approx(RATE, rel=0.2)


def test_the_low_estimate_follows_the_variation():
    steady, jumping = Line(), Line()
    steady.flow(3.0)
    draw = random.Random(0)
    for _ in range(30):
        jumping.flow(0.1, RATE * draw.uniform(0.1, 1.9))
    assert steady.estimate.low_share > 0.9
    assert 0.1 < jumping.estimate.low_share < 0.8


def test_a_link_not_used_for_minutes_is_unknown_again():
    line = Line()
    line.flow(0.5)
    line.end()
    line.now_s += 300
    assert line.estimate.bytes_per_s(line.now_s) is None
    line.begin()
    assert line.estimate.bytes_per_s(line.now_s) is None
    assert line.flow(0.5, RATE / 10) == pytest.approx(RATE / 10, rel=0.05)


def test_what_was_given_counts_from_its_first_use():
    estimate = Throughput(RATE)
    assert estimate.bytes_per_s(1e6) == RATE
    assert estimate.bytes_per_s(1e6 + 60) == RATE
    assert estimate.bytes_per_s(1e6 + 300) is None


def test_a_link_remembers_silence_for_a_while() -> None:
    link = LinkEstimate()
    assert not link.was_silent(0.0)
    link.went_silent(0.0)
    assert link.was_silent(9.0) and not link.was_silent(11.0)
    link.went_silent(None)
    assert not link.was_silent(1.0)


def test_a_link_is_divided_among_those_who_use_it() -> None:
    link = LinkEstimate(prior_bytes_per_s=6e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(6e6)
    link.begin(0.0)
    assert link.share(0.0, own=1)[0] == pytest.approx(6e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(3e6)
    link.begin(0.0)
    assert link.share(0.0, own=2)[0] == pytest.approx(6e6)
    assert link.share(0.0, own=1)[0] == pytest.approx(3e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(2e6)
    link.end(0.0, answered=False)
    link.end(0.0, answered=False)
    assert link.share(0.0, own=0)[0] == pytest.approx(6e6)


def test_a_link_of_which_nothing_is_known() -> None:
    link = LinkEstimate()
    assert link.share(0.0, own=0) == (None, None)
    assert link.known(0.0) is None


def test_a_link_learns_from_what_arrives() -> None:
    link = LinkEstimate()
    link.begin(0.0)
    for step in range(1, 101):
        link.arrived(10_000, step * 0.01, first=step == 1)
    assert link.known(1.0)[0] == pytest.approx(1e6, rel=0.1)
