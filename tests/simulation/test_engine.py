from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import Decision, LoadState, Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT
from cachegen.policy.schedule import chunks_left
from cachegen.simulation.engine import simulate, simulate_many
from cachegen.simulation.scenario import Chunk, Context, Request
from cachegen.simulation.trace import constant, step

MBIT_8 = constant(8.0)  # a million bytes a second


def test_decoding_overlaps_fetching(request_for, in_order):
    load = simulate(request_for(in_order("high")), trace=MBIT_8)
    assert load.ttft_s == pytest.approx(0.005 + 0.004 + 4 * 0.01, abs=1e-3)
    assert load.levels == ("high",) * 4
    assert load.received_bytes == 16_000
    assert load.fetch_s == pytest.approx(4 * 0.009)
    assert load.decode_s == pytest.approx(0.04)
    assert load.overlap_s > 0


def test_a_distant_store_costs_one_round_trip(request_for, in_order):
    costs = Costs(None, request_s=0.05)
    near = simulate(request_for(in_order("high"), costs=Costs(None)), trace=MBIT_8)
    far = simulate(request_for(in_order("high"), costs=costs), trace=MBIT_8, known_bytes_per_s=1e6)
    assert far.ttft_s == pytest.approx(0.05 + near.ttft_s, abs=1e-3)
    assert far.fetch_s == pytest.approx(far.ttft_s, abs=1e-3)
    unknown = simulate(request_for(in_order("high"), costs=costs), trace=MBIT_8)
    assert unknown.ttft_s == pytest.approx(4 * 0.05 + near.ttft_s, abs=1e-3)


def test_at_most_two_chunks_wait_for_the_decoder(request_for, in_order):
    costs = Costs(None, {"low": DecodeCost(1.0)})
    load = simulate(request_for(in_order("low"), costs=costs), trace=MBIT_8)
    times = [timed.at_s for timed in load.decisions]
    assert times == pytest.approx([0.0, 0.001, 1.001, 2.001], abs=1e-3)
    assert load.ttft_s == pytest.approx(4.001)


def test_recompute_from_the_front_meets_fetching(request_for, in_order):
    load = simulate(request_for(in_order("raw", recomputed=2)), trace=MBIT_8)
    assert load.levels == ("text", "text", "raw", "raw")
    assert load.recompute_s == pytest.approx(0.2)
    assert load.ttft_s == pytest.approx(0.2)
    assert load.received_bytes == 32_000


def test_a_later_prefill_pays_for_its_past(request_for, in_order):
    costs = Costs(PrefillCost(0.01, 0.0, 1e-6))
    load = simulate(request_for(in_order("raw", recomputed=4), costs=costs), trace=MBIT_8)
    assert load.ttft_s == pytest.approx(4 * 0.01 + 1e-6 * 400**2)


def test_the_trace_decides_when_bytes_arrive(request_for, in_order):
    trace = step([(0.010, 8.0), (1.0, 0.0), (1.0, 8.0)])
    costs = Costs(None)
    load = simulate(request_for(in_order("raw"), costs=costs), trace=trace)
    assert load.ttft_s == pytest.approx(1.0 + 0.064, abs=1e-3)


def test_it_may_begin_anywhere_in_the_trace(request_for, in_order):
    trace = step([(1.0, 8.0), (1.0, 80.0)])
    costs = Costs(None)
    slow, fast = (
        simulate(request_for(in_order("raw"), costs=costs), trace=trace, start_s=at)
        for at in (0.0, 1.0)
    )
    assert slow.ttft_s == pytest.approx(0.064, abs=1e-3)
    assert fast.ttft_s == pytest.approx(0.0064, abs=1e-3)


def test_a_chunk_without_options_is_recomputed_by_any_controller(request_for, context):
    request = request_for(MinTTFT(), context=context.without_options())
    assert simulate(request, trace=MBIT_8).levels == ("text",) * 4


def test_nothing_stored_and_no_model_is_an_error(request_for, context):
    request = request_for(Fixed("high"), costs=Costs(None), context=context.without_options())
    with pytest.raises(ValueError, match="not stored, and there is no model"):
        simulate(request, trace=MBIT_8)


def test_what_the_estimate_is_follows_the_link(request_for):
    seen: list[tuple[float, float | None]] = []

    class Watcher(Fixed):
        def reconsider(self, state: LoadState) -> Decision | None:
            seen.append((state.now_s, state.bytes_per_s))
            return None

    sizes = (Option("raw", 2_000_000, 0),)
    one = Context((Chunk(0, 100, sizes),), 0)
    simulate(request_for(Watcher("raw"), context=one), trace=constant(8.0), known_bytes_per_s=4e6)
    assert seen[0][1] == pytest.approx(4e6)
    assert seen[-1][1] == pytest.approx(1e6, rel=0.1)
    gaps = [after - before for (before, _), (after, _) in pairwise(seen)]
    assert max(gaps) <= 0.01 + 1e-9


@dataclass(frozen=True, slots=True)
class GivesUp:
    """Fetches raw, and after a while something else instead."""

    instead: Decision

    def choose(self, state, resource):
        return Fixed("raw").choose(state, resource)

    def reconsider(self, state):
        slow = state.transfer.chunk == 0 and state.transfer.option.level == "raw"
        return self.instead if slow and state.now_s >= 0.012 else None


def test_an_abandoned_transfer_counts_its_bytes(request_for):
    request = request_for(GivesUp(Decision.fetch(0, "low", "too slow")))
    load = simulate(request, trace=MBIT_8, tick_s=0.001)
    assert load.levels == ("low", "raw", "raw", "raw")
    assert load.abandoned_bytes == pytest.approx(7_000, abs=600)
    assert load.received_bytes == load.abandoned_bytes + 1_000 + 3 * 16_000


def test_what_is_on_its_way_comes_before_the_next_bytes(request_for):
    request = request_for(GivesUp(Decision.fetch(0, "low", "too slow")))
    now, later = (
        simulate(request, trace=MBIT_8, tick_s=0.001, queue_bytes=queue_bytes)
        for queue_bytes in (0, 6_000)
    )
    assert later.ttft_s == pytest.approx(now.ttft_s + 0.006, abs=1e-3)
    assert later.received_bytes == now.received_bytes


def test_an_abandoned_transfer_may_become_a_recompute(request_for):
    request = request_for(GivesUp(Decision.recompute(0, "sooner")))
    load = simulate(request, trace=MBIT_8, tick_s=0.001)
    assert load.levels == ("text", "raw", "raw", "raw")


@pytest.mark.parametrize(
    "decision",
    (Decision.fetch(1, "none", ""), Decision.recompute(2, ""), Decision.fetch(0, "", "")),
)
def test_impossible_decisions_are_refused(request_for, decision):
    class Wrong(Fixed):
        def choose(self, state, resource):
            return decision

    with pytest.raises(ValueError, match=f"chunk {decision.chunk}"):
        simulate(request_for(Wrong("x")), trace=MBIT_8)


def test_what_is_believed_is_what_the_controller_sees(context):
    seen = []

    class Watcher(Fixed):
        def choose(self, state, resource):
            seen.append(state.costs)
            return Fixed.choose(self, state, resource)

    real, believed = Costs(PrefillCost(0.5, 0.0)), Costs(PrefillCost(0.1, 0.0))
    request = Request(context.without_options(), Watcher("high"), real, believed=believed)
    assert simulate(request, trace=MBIT_8).ttft_s == pytest.approx(2.0)
    assert set(map(id, seen)) == {id(believed)}


def test_deadlines(request_for, in_order):
    met, missed, none = (
        simulate(request_for(in_order("high"), slo_s=slo_s), trace=MBIT_8).met
        for slo_s in (0.1, 0.02, None)
    )
    assert (met, missed, none) == (True, False, True)


def test_two_loads_share_the_link_equally(request_for, in_order):
    costs = Costs(None)
    requests = [request_for(in_order("raw"), costs=costs) for _ in range(2)]
    both = simulate_many(requests, trace=MBIT_8)
    assert [load.ttft_s for load in both] == pytest.approx([0.128, 0.128], abs=2e-3)


def test_a_load_that_comes_later_waits_for_the_model(request_for, in_order):
    controller = in_order("raw", recomputed=4)
    requests = [request_for(controller), request_for(controller, arrival_s=0.05)]
    first, second = simulate_many(requests, trace=MBIT_8)
    assert first.ttft_s == pytest.approx(0.7, abs=0.01)  # turns, one chunk each
    assert second.ttft_s == pytest.approx(0.75, abs=0.01)


@dataclass(frozen=True, slots=True)
class Watching:
    """Chooses as another controller does, and notes each state's shares."""

    inner: object
    shares: list[tuple[int, int]]

    def choose(self, state, resource):
        self.shares.append((state.model_share, state.decoder_share))
        return self.inner.choose(state, resource)

    def reconsider(self, state):
        return None


@dataclass(frozen=True, slots=True)
class Eager:
    """Fetches raw from the back, and recomputes whatever is at the front."""

    def choose(self, state, resource):
        left = chunks_left(state)
        if resource == "model":
            return Decision.recompute(state.front, "by choice")
        return Decision.fetch(left[-1], "raw", "by choice") if left else None

    def reconsider(self, state):
        return None


def test_by_choice_a_load_uses_only_a_model_that_is_free(request_for, in_order):
    costs = Costs(PrefillCost(0.0, 0.01))
    requests = [
        request_for(in_order("raw", recomputed=1), costs=costs),
        request_for(Eager(), costs=costs, arrival_s=0.02),
    ]
    first, second = simulate_many(requests, trace=MBIT_8)
    assert first.levels == ("text", "raw", "raw", "raw")
    assert second.levels == ("raw",) * 4
    assert second.ttft_s < first.ttft_s


def test_who_has_just_used_the_model_decides_first(request_for, context):
    slow = tuple(replace(chunk, options=(Option("raw", 10**6, 0),)) for chunk in context.chunks)
    requests = [request_for(Eager(), arrival_s=at, context=Context(slow, 0)) for at in (0.01, 0.0)]
    begins_s = [
        [timed.at_s for timed in load.decisions if timed.decision.action == "recompute"]
        for load in simulate_many(requests, trace=MBIT_8)
    ]
    assert begins_s[1] == pytest.approx([0.0, 0.1, 0.2])
    assert begins_s[0] == pytest.approx([0.29, 0.39, 0.49])


def test_a_transfer_is_not_given_up_for_a_model_that_is_busy(request_for, in_order):
    requests = [
        request_for(in_order("raw", recomputed=1), costs=Costs(PrefillCost(0.0, 0.01))),
        request_for(GivesUp(Decision.recompute(0, "sooner")), arrival_s=0.001),
    ]
    _, load = simulate_many(requests, trace=MBIT_8, tick_s=0.001)
    assert (load.levels, load.abandoned_bytes) == (("raw",) * 4, 0)


def test_loads_know_how_many_there_are(request_for, in_order):
    alone, early, late = [], [], []
    simulate(request_for(Watching(in_order("raw"), alone)), trace=MBIT_8)
    assert {model for model, _ in alone} == {1}
    requests = [
        request_for(Watching(in_order("raw"), early)),
        request_for(Watching(in_order("raw"), late), arrival_s=0.01),
    ]
    simulate_many(requests, trace=MBIT_8)
    assert early[0][0] == 1
    assert late[0][0] == 2


def test_loads_know_who_else_waits_for_the_decoder(request_for, in_order):
    shares = []
    costs = Costs(None, {"low": DecodeCost(0.05)})
    requests = [
        request_for(in_order("low"), costs=costs),
        request_for(Watching(in_order("low"), shares), costs=costs, arrival_s=0.01),
    ]
    simulate_many(requests, trace=MBIT_8)
    assert shares[0][1] == 3
    assert shares[-1][1] == 1


def test_results_are_in_the_order_of_the_requests(request_for, in_order):
    requests = [
        request_for(in_order("low"), arrival_s=1.0),
        request_for(in_order("high"), arrival_s=0.0),
    ]
    assert [load.levels[0] for load in simulate_many(requests, trace=MBIT_8)] == ["low", "high"]


def test_no_tick_is_refused(request_for, in_order):
    with pytest.raises(ValueError, match="tick_s"):
        simulate(request_for(in_order("low")), trace=MBIT_8, tick_s=0.0)


CONTROLLERS = st.sampled_from((Fixed("b"), Algorithm1(), MinTTFT()))
CHUNKS = st.lists(
    st.tuples(st.integers(1, 600), st.lists(st.integers(1, 10**7), max_size=3)),
    min_size=1,
    max_size=6,
)
TRACES = st.lists(
    st.tuples(st.floats(0.01, 2.0), st.floats(0.5, 800.0)), min_size=1, max_size=6
).map(step)


@settings(max_examples=60, deadline=None)
@given(
    CONTROLLERS,
    CHUNKS,
    TRACES,
    st.floats(0.0, 0.05),
    st.floats(0.0, 0.01),
    st.none() | st.floats(0.01, 10.0),
    st.integers(1, 3),
)
def test_every_load_ends_and_its_bytes_add_up(
    controller, described, trace, request_s, per_token_s, slo_s, num_loads
):
    chunks, start = [], 0
    for num_tokens, sizes in described:
        options = tuple(Option("abc"[rank], size, rank) for rank, size in enumerate(sorted(sizes)))
        chunks.append(Chunk(start, start + num_tokens, options))
        start += num_tokens
    costs = Costs(PrefillCost(0.001, per_token_s), {"a": DecodeCost(0.01)}, request_s)
    request = Request(Context(tuple(chunks), 0), controller, costs, 0.0, slo_s)
    for load in simulate_many([request] * num_loads, trace=trace):
        sizes = [
            next((o.size_bytes for o in chunk.options if o.level == level), 0)
            for chunk, level in zip(chunks, load.levels, strict=True)
        ]
        assert load.received_bytes == sum(sizes) + load.abandoned_bytes
        recomputed = [c for c, level in zip(chunks, load.levels, strict=True) if level == "text"]
        expected_s = sum(costs.prefill.seconds(c.stop - c.start, past=c.start) for c in recomputed)
        assert load.recompute_s == pytest.approx(expected_s)
        assert load.ttft_s >= trace.seconds_for(load.received_bytes) - 1e-6
        assert load.ttft_s * num_loads >= expected_s - 1e-9


def test_equal_simulations_are_equal(request_for):
    one, two = (
        simulate(request_for(MinTTFT(), slo_s=0.05), trace=step([(0.02, 8.0), (0.03, 80.0)]))
        for _ in range(2)
    )
    assert one == two
