import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.policy.costs import Costs, DecodeCost, PrefillCost, fit_decode, fit_prefill

SHAPES = [(n, past) for n in (64, 256, 1024, 1536) for past in (0, 1536, 4096)]


def samples(cost: PrefillCost) -> list[tuple[int, int, float]]:
    return [(n, past, cost.seconds(n, past=past)) for n, past in SHAPES]


@pytest.mark.parametrize(
    "cost",
    (
        PrefillCost(0.01, 1e-4, 1e-8),
        PrefillCost(0.0, 1e-4, 1e-8),
        PrefillCost(0.01, 1e-4, 0.0),
        PrefillCost(0.0, 2e-3, 0.0),
    ),
    ids=str,
)
def test_the_cost_behind_exact_samples_is_found(cost: PrefillCost):
    found = fit_prefill(samples(cost))
    assert found is not None
    for n, past, seconds in [*samples(cost), (8192, 100_000, cost.seconds(8192, past=100_000))]:
        assert found.seconds(n, past=past) == pytest.approx(seconds, rel=1e-3)


def test_chunks_add_up_to_one_call_but_for_the_constant():
    cost = PrefillCost(0.5, 1e-4, 1e-8)
    parts = [cost.seconds(n, past=past) for past, n in ((0, 100), (100, 300), (400, 50))]
    assert sum(parts) - 2 * 0.5 == pytest.approx(cost.seconds(450))


def test_one_sample_is_taken_as_a_time_per_token():
    assert fit_prefill([(100, 0, 0.5)]) == PrefillCost(0.0, pytest.approx(0.005), 0.0)


def test_samples_of_one_shape_are_taken_as_a_time_per_token():
    found = fit_prefill([(100, 0, 0.4), (100, 0, 0.5), (100, 0, 0.6)])
    assert found == PrefillCost(0.0, pytest.approx(0.005, rel=0.1), 0.0)


@pytest.mark.parametrize("factor", (0.2, 5.0, 100.0))
def test_one_sample_far_off_changes_little(factor: float):
    cost = PrefillCost(0.01, 1e-4, 1e-8)
    noise = random.Random(0)
    seen = [(n, past, s * noise.uniform(0.97, 1.03)) for n, past, s in samples(cost)]
    n, past, seconds = seen[4]
    seen[4] = (n, past, seconds * factor)
    found = fit_prefill(seen)
    assert found is not None
    for n, past, seconds in samples(cost):
        assert found.seconds(n, past=past) == pytest.approx(seconds, rel=0.15)


@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(0, 10**6), st.floats(1e-6, 1e3)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=40, deadline=None)
def test_no_cost_is_negative(seen: list[tuple[int, int, float]]):
    found = fit_prefill(seen)
    assert found is not None
    assert min(found.a_s, found.b_s, found.c_s) >= 0
    assert found.seconds(1000) > 0


def test_nothing_is_known_without_samples():
    assert fit_prefill([]) is None
    assert fit_prefill([(0, 0, 0.1), (10, 0, 0.0)]) is None
    assert fit_decode([]) == DecodeCost()


def test_decoding_is_found_too():
    cost = DecodeCost(0.002, 5e-6)
    found = fit_decode([(n, cost.seconds(n)) for n in (64, 512, 1536)])
    assert found.seconds(4096) == pytest.approx(cost.seconds(4096), rel=1e-3)


def test_an_unmeasured_level_costs_nothing():
    assert Costs(decode={"high": DecodeCost(0.1)}).decode_s("low", 100) == 0.0
