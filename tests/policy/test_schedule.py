import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.policy.controller import (
    MAX_TRANSFERS,
    ChunkState,
    LoadState,
    Option,
    Status,
    Transfer,
)
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.schedule import (
    UNKNOWN_S,
    assumed_bytes_per_s,
    best_plan,
    chunks_left,
    ends,
    look,
    nearest,
    request_due_s,
)

OPTIONS = (Option("low", 100, 0), Option("high", 400, 2))
COSTS = Costs(PrefillCost(0.1, 0.01, 1e-5), {"high": DecodeCost(0.02, 1e-3)}, 0.05)


def load(num_chunks: int = 4, costs: Costs = COSTS) -> LoadState:
    chunks = [ChunkState(100 * i, 100 * i + 100, OPTIONS) for i in range(num_chunks)]
    return LoadState(chunks, costs, 2, bytes_per_s=1000.0)


@pytest.mark.parametrize(("rank", "level"), ((0, "low"), (1, "high"), (2, "high"), (3, "high")))
def test_the_nearest_option_is_the_better_one_if_any(rank: int, level: str):
    assert nearest(OPTIONS, rank).level == level


def test_an_idle_load_is_free_at_once():
    free = ends(load(), 1000.0)
    assert (free.link_s, free.decoder_s, free.model_s) == (0.0, 0.0, 0.0)


def test_what_is_under_way_ends_first():
    state = load()
    state.now_s = 10.0
    state.chunks[3].status, state.chunks[3].level = Status.FETCHING, "high"
    state.transfers = [Transfer(3, OPTIONS[1], 9.9, received_bytes=100)]
    state.chunks[2].status, state.chunks[2].level = Status.DECODING, "high"
    state.decode_began_s = 9.98
    state.chunks[0].status, state.recompute_began_s = Status.RECOMPUTING, 9.5
    free = ends(state, 1000.0)
    assert free.link_s == pytest.approx(0.3)
    assert free.decoder_s == pytest.approx(0.3 + 0.12)
    assert free.model_s == pytest.approx(0.1 + 1.0 + 0.1 - 0.5)
    assert chunks_left(state) == [1]


def test_a_decoding_under_way_counts_from_its_beginning():
    state = load()
    state.chunks[3].status, state.chunks[3].level = Status.DECODING, "high"
    assert ends(state, 1000.0).decoder_s == pytest.approx(0.12)
    state.now_s, state.decode_began_s = 10.0, 9.9
    assert ends(state, 1000.0).decoder_s == pytest.approx(0.02)


def test_a_transfer_without_a_byte_still_waits_for_its_answer():
    state = load()
    state.transfers = [Transfer(3, OPTIONS[1], 0.0)]
    state.now_s = 0.01
    assert ends(state, 1000.0).link_s == pytest.approx(0.04 + 0.4)


def test_transfers_asked_for_ahead_come_one_after_the_other():
    state = load()
    state.now_s = 1.0
    state.transfers = [Transfer(3, OPTIONS[1], 0.9, 300), Transfer(2, OPTIONS[1], 0.99)]
    state.chunks[3].status = state.chunks[2].status = Status.FETCHING
    free = ends(state, 1000.0)
    assert free.link_s == pytest.approx(0.1 + 0.4)
    assert free.decoder_s == pytest.approx(0.5 + 0.12)
    assert free.model_s == 0.0
    assert ends(state, 1e6).link_s == pytest.approx(0.04 + 400e-6)


def test_the_model_waits_for_the_front_and_for_nothing_behind_it():
    state = load(2)
    state.transfers = [Transfer(0, OPTIONS[1], 0.0, 100), Transfer(1, OPTIONS[1], 0.0)]
    state.chunks[0].status = state.chunks[1].status = Status.FETCHING
    assert ends(state, 1000.0).model_s == pytest.approx(0.3 + 0.12)


def test_a_request_is_due_when_its_first_byte_comes_as_the_link_gets_free():
    state = load(8)
    assert request_due_s(state) == 0.0
    state.now_s = 1.0
    state.transfers = [Transfer(7, OPTIONS[1], 0.9, received_bytes=100)]
    assert request_due_s(state) == pytest.approx(0.3 - 0.05)
    state.transfers[0].received_bytes = 351
    assert request_due_s(state) == 0.0
    state.transfers.append(Transfer(6, OPTIONS[0], 1.0))
    assert request_due_s(state) == pytest.approx(0.049 + 0.1 - 0.05)


def test_only_so_many_are_asked_for_ahead():
    state = load(8)
    state.bytes_per_s, state.now_s = 1e9, 1.0
    for chunk in range(MAX_TRANSFERS):
        assert request_due_s(state) == 0.0
        state.transfers.append(Transfer(chunk, OPTIONS[0], 1.0))
    assert request_due_s(state) == math.inf


def test_nothing_is_asked_for_ahead_of_what_is_unknown():
    state = load()
    state.bytes_per_s, state.transfers = None, [Transfer(3, OPTIONS[0], 0.0, 99)]
    assert request_due_s(state) == math.inf


def test_what_takes_longer_than_expected_is_nearly_over():
    state = load()
    state.chunks[0].status, state.recompute_began_s, state.now_s = Status.RECOMPUTING, 0.0, 99.0
    assert 0 < ends(state, 1000.0).model_s < 1.0


def test_shares_make_model_and_decoder_slower():
    state = load()
    state.chunks[3].status, state.chunks[3].level = Status.DECODING, "high"
    alone = look(state, [0, 1, 2], 1000.0)
    state.model_share, state.decoder_share = 3, 2
    shared = look(state, [0, 1, 2], 1000.0)
    assert shared.free.decoder_s == pytest.approx(2 * alone.free.decoder_s)
    assert shared.compute_s == pytest.approx([3 * s for s in alone.compute_s])


def test_an_unknown_throughput_falls_with_the_time_waited():
    state = load()
    state.bytes_per_s = None
    assert assumed_bytes_per_s(state) == math.inf
    state.transfers = [Transfer(3, OPTIONS[1], 1.0)]
    state.now_s = 1.04
    assert assumed_bytes_per_s(state) == math.inf
    state.now_s = 1.25
    assert assumed_bytes_per_s(state) == pytest.approx(400 / 0.2)


@pytest.mark.parametrize("costs", (Costs(), COSTS), ids=("nothing measured", "no model"))
def test_nothing_is_recomputed_that_cannot_be(costs: Costs):
    state = load(costs=costs)
    state.can_recompute = costs.prefill is None
    plan = best_plan(look(state, [0, 1, 2, 3], 1000.0), 2)
    assert plan.split == 0
    assert plan.finish_s < UNKNOWN_S


@given(rate=st.floats(100.0, 1e6), num_chunks=st.integers(1, 8), rank=st.sampled_from((0, 2)))
def test_the_best_split_is_found(rate: float, num_chunks: int, rank: int):
    state = load(num_chunks)
    outlook = look(state, range(num_chunks), rate)
    option, decode_s = nearest(OPTIONS, rank), 0.12 if rank else 0.0
    finishes = []
    for split in range(num_chunks + 1):
        arrived_s = decoded_s = 0.0
        for _ in range(num_chunks - split):
            arrived_s = max(arrived_s, 0.05) + option.size_bytes / rate
            decoded_s = max(decoded_s, arrived_s) + decode_s
        finishes.append(max(sum(outlook.compute_s[:split]), decoded_s))
    plan = best_plan(outlook, rank)
    assert plan.finish_s == pytest.approx(min(finishes))
    assert finishes[plan.split] == pytest.approx(plan.finish_s)
    assert best_plan(outlook, rank, within_s=1.01 * plan.finish_s) == plan


def test_a_chunk_without_options_is_recomputed_at_the_end():
    state = load()
    state.chunks[2].options = ()
    outlook = look(state, [0, 1, 2, 3], 1e9)
    plan = best_plan(outlook, 0)
    assert plan.split == 0
    assert plan.finish_s == pytest.approx(0.05 + outlook.compute_s[2], rel=1e-3)
