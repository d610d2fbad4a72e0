import pytest

from cachegen.policy.controller import ChunkState, Decision, LoadState, Option, Status, Transfer
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.deadline import SafetyMargins, plan_in_time
from cachegen.policy.min_ttft import MinTTFT

MBIT = 125_000
SIZES = {
    "low": 40_000,
    "high": 100_000,
    "highest": 200_000,
    "packed": 800_000,
    "lossless": 1_600_000,
    "raw": 3_000_000,
}
OPTIONS = tuple(Option(name, size, rank) for rank, (name, size) in enumerate(SIZES.items()))
HIGH, EXACT = 1, 4


def load(
    num_chunks: int = 8,
    *,
    mbit_s: float | None = 20,
    prefill_s: float = 0.1,
    request_s: float = 0.002,
    slo_s: float | None = None,
) -> LoadState:
    """Chunks of 1000 tokens; recomputing takes `prefill_s` for one."""
    chunks = [ChunkState(1000 * i, 1000 * i + 1000, OPTIONS) for i in range(num_chunks)]
    decode = {name: DecodeCost(0.0, 1e-6 if name in ("packed", "raw") else 1e-5) for name in SIZES}
    costs = Costs(PrefillCost(0.0, prefill_s / 1000), decode, request_s)
    rate = None if mbit_s is None else mbit_s * MBIT
    return LoadState(chunks, costs, HIGH, slo_s=slo_s, bytes_per_s=rate)


def fetching(state: LoadState, chunk: int, level: str, *, received: int = 0) -> LoadState:
    """The state with a transfer that began at 0."""
    option = state.chunks[chunk].option(level)
    assert option is not None
    state.chunks[chunk].status, state.chunks[chunk].level = Status.FETCHING, level
    state.transfers = [Transfer(chunk, option, 0.0, received)]
    return state


def what(decision: Decision | None) -> tuple[int, str] | None:
    return decision and (decision.chunk, decision.level)


def both(state: LoadState) -> tuple[tuple[int, str] | None, tuple[int, str] | None]:
    choose = MinTTFT().choose
    return what(choose(state, "link")), what(choose(state, "model"))


def test_both_ends_at_once():
    assert both(load()) == ((7, "high"), (0, "text"))


def test_they_meet_where_both_end_together():
    state = load(mbit_s=10)
    for chunk in state.chunks[5:]:
        chunk.status = Status.DONE
    state.chunks[0].status, state.recompute_began_s = Status.RECOMPUTING, 0.0
    assert both(state)[0] == (4, "high")
    state.now_s, state.recompute_began_s = 0.35, 0.3
    for chunk in state.chunks[:3]:
        chunk.status = Status.DONE
    state.chunks[3].status = Status.RECOMPUTING
    state.advance_front()
    assert both(state)[0] == (4, "high")
    state.bytes_per_s = MBIT
    assert both(state)[0] is None


def test_text_below_the_break_even_length():
    assert both(load(1, prefill_s=0.001)) == (None, (0, "text"))
    assert both(load(1, prefill_s=0.001, mbit_s=None)) == (None, (0, "text"))


def test_all_is_fetched_where_the_model_is_slow():
    assert both(load(prefill_s=10.0)) == ((7, "high"), None)


@pytest.mark.parametrize(
    ("mbit_s", "level"), ((20, "high"), (400, "high"), (4000, "packed"), (20_000, "packed"))
)
def test_bigger_levels_where_decoding_is_what_takes_long(mbit_s: float, level: str):
    state = load(mbit_s=mbit_s, prefill_s=10.0, request_s=0.0)
    assert both(state)[0] == (7, level)


def test_a_better_level_where_the_link_would_wait_for_the_model():
    state = load(2, prefill_s=0.3)
    state.chunks[0].status, state.recompute_began_s = Status.RECOMPUTING, 0.0
    assert both(state)[0] == (1, "highest")


def test_in_the_order_of_the_context_where_recomputing_is_not_known():
    state = load()
    state.costs = Costs(None, state.costs.decode, state.costs.request_s)
    assert both(state) == ((0, "high"), None)
    state = load(prefill_s=1e-6)
    state.can_recompute = False
    assert both(state)[0] == (0, "high")


def test_what_cannot_be_fetched_is_recomputed_even_so():
    state = load()
    state.costs = Costs(None)
    state.chunks[0].options = ()
    assert both(state) == ((1, "high"), (0, "text"))


def test_an_unknown_link_is_probed_before_the_model_begins():
    state = load(mbit_s=None, prefill_s=0.2)
    assert both(state) == ((7, "high"), None)
    fetching(state, 7, "high")
    state.now_s = 0.003
    assert MinTTFT().choose(state, "model") is None
    state.now_s = 0.2
    assert what(MinTTFT().choose(state, "model")) == (0, "text")


def test_a_busy_model_is_left_out():
    state = load(prefill_s=0.2)
    state.model_share = 100
    assert both(state) == ((7, "high"), None)


def test_worse_than_promised_only_for_a_deadline():
    assert both(load(mbit_s=1, prefill_s=100.0))[0] == (7, "high")
    assert both(load(mbit_s=1, prefill_s=100.0, slo_s=4.0))[0] == (7, "low")


def test_the_earliest_end_where_no_deadline_can_be_met():
    assert both(load(mbit_s=1, prefill_s=100.0, slo_s=0.1)) == ((7, "low"), None)
    assert both(load(mbit_s=0.01, prefill_s=0.1, slo_s=0.1)) == (None, (0, "text"))


def test_no_recomputation_that_is_late_itself_for_a_small_gain():
    state = load(2, mbit_s=1, prefill_s=0.5, slo_s=0.4)
    assert both(state) == ((1, "low"), None)
    state.slo_s = 0.6
    assert both(state)[1] == (0, "text")


def test_recomputing_counts_as_exact():
    assert both(load(slo_s=100.0, prefill_s=0.1))[1] == (0, "text")
    state = load(slo_s=100.0, prefill_s=0.1)
    for chunk in state.chunks:
        chunk.options = OPTIONS[:3]
    assert both(state) == (None, (0, "text"))


def test_a_low_estimate_is_what_deadlines_count_on():
    state = load(prefill_s=100.0, slo_s=0.84)
    assert both(state)[0] == (7, "high")
    state.low_bytes_per_s = 5 * MBIT
    assert both(state)[0] == (7, "low")


def test_a_big_chunk_must_leave_time_for_the_rest_on_a_slower_link():
    state = load(prefill_s=100.0, slo_s=1.1)
    state.low_bytes_per_s = state.bytes_per_s
    assert both(state)[0] == (7, "highest")
    careful = MinTTFT(margins=SafetyMargins(worst=0.15))
    assert what(careful.choose(state, "link")) == (7, "high")


def test_quality_rises_with_the_deadline():
    state = load(prefill_s=0.5)
    ranks = []
    for step in range(1, 60):
        plan = plan_in_time(state, range(8), 7, remaining_s=0.1 * step, margins=SafetyMargins())
        if plan.finish_s <= 0.1 * step:
            ranks.append(min(plan.rank, EXACT))
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 5


def test_a_transfer_that_goes_well_goes_on():
    assert MinTTFT().reconsider(fetching(load(), 7, "packed", received=700_000)) is None
    assert MinTTFT().reconsider(load()) is None


def test_a_transfer_that_collapses_is_given_up_for_a_smaller_level():
    state = fetching(load(mbit_s=1), 7, "packed", received=300_000)
    assert what(MinTTFT().reconsider(state)) == (7, "high")
    state.slo_s = 2.4
    assert what(MinTTFT().reconsider(state)) == (7, "highest")
    assert state.transfer is not None
    state.transfer.received_bytes = 690_000
    assert MinTTFT().reconsider(state) is None


def test_what_is_on_its_way_cannot_be_taken_back():
    state = fetching(load(mbit_s=0.1), 7, "high", received=1000)
    state.slo_s = 5.0
    assert what(MinTTFT(in_flight_bytes=0).reconsider(state)) == (7, "low")
    assert MinTTFT(in_flight_bytes=60_000).reconsider(state) is None


def test_never_below_the_default_without_a_deadline():
    state = fetching(load(mbit_s=0.1), 7, "packed", received=1000)
    assert what(MinTTFT().reconsider(state)) == (7, "high")
    state = fetching(load(mbit_s=0.1), 7, "high", received=1000)
    assert MinTTFT(in_flight_bytes=0).reconsider(state) is None
    state.slo_s = 50.0
    assert MinTTFT(in_flight_bytes=0).reconsider(state) is None


def test_a_collapse_at_the_front_is_recomputed_when_the_model_is_idle():
    state = fetching(load(1, mbit_s=1), 0, "high", received=10_000)
    assert what(MinTTFT().reconsider(state)) == (0, "text")
    state.transfer.received_bytes = 95_000
    assert MinTTFT().reconsider(state) is None


def test_a_front_that_was_asked_for_ahead_is_recomputed_as_well():
    state = fetching(load(3, mbit_s=1), 1, "high", received=10_000)
    state.chunks[2].status = Status.DONE
    assert MinTTFT().reconsider(state) is None
    state.chunks[0].status, state.chunks[0].level = Status.FETCHING, "high"
    state.transfers.append(Transfer(0, OPTIONS[HIGH], 0.0))
    assert what(MinTTFT().reconsider(state)) == (0, "text")
    state.recompute_began_s = 0.0
    assert MinTTFT().reconsider(state) is None
    state.recompute_began_s, state.bytes_per_s = None, 100 * MBIT
    assert MinTTFT().reconsider(state) is None


def test_a_silent_transfer_is_given_up_in_time():
    state = fetching(load(1, mbit_s=None, prefill_s=0.1), 0, "high")
    state.now_s = 0.05
    assert MinTTFT().reconsider(state) is None
    state.now_s = 0.25
    assert what(MinTTFT().reconsider(state)) == (0, "text")


def test_reasons_name_the_numbers():
    decision = MinTTFT().choose(load(), "link")
    assert decision is not None
    assert decision.reason.startswith("20.0 Mbit/s: high ends at 0.")
