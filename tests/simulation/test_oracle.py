import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.policy.controller import Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.simulation.engine import simulate
from cachegen.simulation.oracle import earliest_s
from cachegen.simulation.scenario import Chunk, Context, Request
from cachegen.simulation.trace import constant, step


def test_a_fast_link_carries_everything(context, costs):
    assert earliest_s(context, costs, trace=constant(8e3)) == pytest.approx(0.005 + 16e-6)


def test_a_slow_link_leaves_text(context, costs):
    assert earliest_s(context, costs, trace=constant(1e-6)) == pytest.approx(0.4)


def test_both_ends_meet(context, costs):
    # Two chunks each: 0.2 s of the model, 8 KB at 40 KB/s and a request of the link.
    assert earliest_s(context, costs, trace=constant(0.32)) == pytest.approx(0.205, abs=1e-3)


def test_the_trace_is_known_from_where_the_load_begins(context):
    trace = step([(1.0, 1e-6), (1.0, 8.0)])
    costs = Costs(None, request_s=0.0)
    assert earliest_s(context, costs, trace=trace) == pytest.approx(1.016, abs=1e-3)
    assert earliest_s(context, costs, trace=trace, start_s=1.0) == pytest.approx(0.016, abs=1e-3)


def test_what_is_not_stored_must_be_recomputed(context, costs):
    assert earliest_s(context.without_options(), costs, trace=constant(8e3)) == pytest.approx(0.4)


SIZES = st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**7)), min_size=1, max_size=6)
TRACES = st.lists(
    st.tuples(st.floats(0.01, 1.0), st.floats(1.0, 300.0)), min_size=1, max_size=5
).map(step)


@settings(max_examples=60, deadline=None)
@given(SIZES, TRACES, st.floats(1e-5, 0.01), st.sampled_from((Fixed("b"), MinTTFT())))
def test_nothing_at_default_quality_is_faster(sizes, trace, per_token_s, controller):
    chunks = tuple(
        Chunk(100 * i, 100 * i + 100, (Option("a", small, 0), Option("b", large, 1)))
        for i, (small, large) in enumerate(sizes)
    )
    context = Context(chunks, default_rank=1)
    costs = Costs(PrefillCost(0.001, per_token_s, 1e-7), {"b": DecodeCost(0.002)}, 0.003)
    load = simulate(Request(context, controller, costs), trace=trace)
    if "a" not in load.levels:
        assert load.ttft_s >= earliest_s(context, costs, trace=trace) - 1e-6
