from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.simulation.trace import Trace, constant, from_samples, random_trace, step

PIECES = st.lists(
    st.tuples(st.floats(0.01, 5.0), st.sampled_from((0.0, 0.5, 8.0, 300.0))), min_size=1, max_size=8
).filter(lambda pieces: any(rate for _, rate in pieces))


def test_pieces_go_on_behind_the_end():
    trace = step([(1.0, 8.0), (2.0, 16.0)])
    assert list(islice(trace.pieces(), 4)) == [(1.0, 1e6), (3.0, 2e6), (4.0, 1e6), (6.0, 2e6)]
    assert list(islice(trace.pieces(3.5), 2)) == [(0.5, 1e6), (2.5, 2e6)]


def test_mean_is_weighted_by_time():
    trace = step([(1.0, 8.0), (3.0, 16.0)])
    assert trace.mean_bytes_per_s == pytest.approx(1.75e6)
    assert trace.scaled(56.0).bytes_per_s == pytest.approx((4e6, 8e6))
    assert trace.sped_up(4.0).period_s == pytest.approx(1.0)
    assert trace.sped_up(4.0).mean_bytes_per_s == pytest.approx(1.75e6)


@given(PIECES, st.floats(0.0, 50.0), st.integers(1, 10**8))
def test_seconds_for_bytes_invert_carried_bytes(pieces, start_s, num_bytes):
    trace = step(pieces)
    seconds = trace.seconds_for(num_bytes, start_s=start_s)
    carried = trace.carried_bytes(start_s + seconds) - trace.carried_bytes(start_s)
    assert carried == pytest.approx(num_bytes, rel=1e-6, abs=1.0)


def test_nothing_takes_no_time():
    assert constant(8.0).seconds_for(0, start_s=3.0) == 0.0
    assert constant(8.0).seconds_for(2_000_000) == pytest.approx(2.0)


def test_random_traces_are_seeded_and_bounded():
    one, same, other = (
        random_trace(seed, low_mbit_s=10.0, high_mbit_s=100.0, every_s=0.1) for seed in (1, 1, 2)
    )
    assert one == same
    assert one.bytes_per_s != other.bytes_per_s
    assert 10.0 <= min(one.bytes_per_s) * 8e-6 < 20.0
    assert 90.0 < max(one.bytes_per_s) * 8e-6 <= 100.0


def test_a_sample_holds_until_the_next():
    trace = from_samples([(0.0, 8.0), (2.0, 16.0), (3.0, 24.0)], name="x")
    assert trace.durations_s == (2.0, 1.0, 1.0)
    assert trace.bytes_per_s == (1e6, 2e6, 3e6)


@pytest.mark.parametrize(
    ("durations", "rates", "message"),
    (
        ((), (), "at least one"),
        ((1.0,), (1.0, 2.0), "got 2 and 1"),
        ((0.0,), (1.0,), "positive durations"),
        ((1.0,), (-1.0,), "at least 0"),
        ((1.0,), (0.0,), "one above it"),
        ((1.0,), (float("nan"),), "at least 0"),
    ),
)
def test_bad_traces_are_refused(durations, rates, message):
    with pytest.raises(ValueError, match=message):
        Trace("x", durations, rates)


def test_bad_changes_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        constant(1.0).scaled(0.0)
    with pytest.raises(ValueError, match="above 0"):
        constant(1.0).sped_up(-1.0)
    with pytest.raises(ValueError, match="at least two"):
        from_samples([(0.0, 1.0)], name="x")
