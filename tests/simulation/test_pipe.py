import math

import pytest

from cachegen.policy.link_estimate import LinkEstimate
from cachegen.simulation.pipe import Flow, Pipe
from cachegen.simulation.trace import step

TRACE = step([(1.0, 8.0), (1.0, 80.0)])


@pytest.fixture
def pipe() -> Pipe[str]:
    return Pipe(TRACE.pieces(), LinkEstimate(None))


def flow(size_bytes: float, *, begins_s: float = 0.0, queued_bytes: float = 0.0) -> Flow[str]:
    return Flow("x", begins_s, queued_bytes, size_bytes)


def test_without_transfers_nothing_happens(pipe):
    assert pipe.next_s(0.0) == math.inf
    assert pipe.advance(0.0, 5.0) == []


def test_a_transfer_ends_when_its_bytes_are_there(pipe):
    only = flow(500_000)
    pipe.begin(only, 0.0)
    assert pipe.next_s(0.0) == pytest.approx(0.5)
    assert pipe.advance(0.0, 0.2) == []
    assert only.missing_bytes == pytest.approx(300_000)
    assert pipe.advance(0.2, 0.5) == [only]


def test_transfers_share_equally_from_when_they_flow(pipe):
    early, late = flow(900_000), flow(100_000, begins_s=0.5)
    pipe.begin(early, 0.0)
    pipe.begin(late, 0.0)
    assert pipe.next_s(0.0) == 0.5
    pipe.advance(0.0, 0.5)
    assert late.missing_bytes == 100_000
    assert pipe.next_s(0.5) == pytest.approx(0.7)
    assert pipe.advance(0.5, 0.7) == [late]
    assert early.missing_bytes == pytest.approx(300_000)


def test_a_change_of_the_rate_is_an_event(pipe):
    only = flow(3_000_000)
    pipe.begin(only, 0.0)
    assert pipe.next_s(0.0) == 1.0
    pipe.advance(0.0, 1.0)
    assert pipe.next_s(1.0) == pytest.approx(1.2)


def test_what_is_queued_comes_first_and_is_not_its_own(pipe):
    only = flow(100_000, queued_bytes=300_000)
    pipe.begin(only, 0.0)
    assert pipe.next_s(0.0) == pytest.approx(0.4)
    pipe.advance(0.0, 0.35)
    assert (only.queued_bytes, only.missing_bytes) == (0.0, pytest.approx(50_000))


def test_the_estimate_hears_of_every_byte(pipe):
    only = flow(900_000)
    pipe.begin(only, 0.0)
    for hundredth in range(50):
        pipe.advance(hundredth / 100, (hundredth + 1) / 100)
    assert pipe.estimate.share(0.5, own=1)[0] == pytest.approx(1e6, rel=0.1)
    pipe.end(only, 0.5)
    assert pipe.flows == []
