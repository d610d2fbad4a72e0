"""Hand-worked examples: four chunks of 100 tokens, sizes in round numbers, 1000 bytes/s."""

import pytest

from cachegen.policy.algorithm1 import Algorithm1
from cachegen.policy.controller import ChunkState, Decision, LoadState, Option, Status
from cachegen.policy.costs import Costs, PrefillCost

SIZES = {"low": 100, "medium": 200, "high": 400, "highest": 800}
OPTIONS = tuple(Option(name, size, rank) for rank, (name, size) in enumerate(SIZES.items()))


def load(slo_s: float | None, *, rate: float | None = 1000.0, prefill_s: float = 9.9) -> LoadState:
    """Recomputing takes `prefill_s` for 100 tokens; users are served at `high`."""
    chunks = [ChunkState(100 * i, 100 * i + 100, OPTIONS) for i in range(4)]
    costs = Costs(PrefillCost(0.0, prefill_s / 100))
    return LoadState(chunks, costs, 2, slo_s=slo_s, bytes_per_s=rate)


def what(decision: Decision | None) -> tuple[int, str] | None:
    return decision and (decision.chunk, decision.level)


@pytest.mark.parametrize(
    ("slo_s", "level"),
    ((10.0, "highest"), (3.2, "highest"), (3.1, "high"), (0.8, "medium"), (0.3, "low")),
)
def test_the_best_level_at_which_all_that_is_left_fits(slo_s: float, level: str):
    assert what(Algorithm1().choose(load(slo_s), "link")) == (0, level)


def test_text_where_recomputing_all_that_is_left_fits():
    state = load(2.0, prefill_s=0.5)
    assert Algorithm1().choose(state, "link") is None
    assert what(Algorithm1().choose(state, "model")) == (0, "text")
    state.slo_s = 1.9
    assert what(Algorithm1().choose(state, "link")) == (0, "high")
    assert Algorithm1().choose(state, "model") is None


def test_only_what_is_left_and_the_time_left_count():
    state = load(2.0)
    for chunk in state.chunks[:2]:
        chunk.status = Status.DONE
    state.advance_front()
    state.now_s = 0.5
    assert what(Algorithm1().choose(state, "link")) == (2, "high")
    state.bytes_per_s = 2000.0
    assert what(Algorithm1().choose(state, "link")) == (2, "highest")


def test_text_for_the_rest_waits_for_what_comes_before():
    state = load(1.0, prefill_s=0.2)
    state.chunks[0].status, state.chunks[0].level = Status.DECODING, "low"
    assert Algorithm1().choose(state, "link") is None
    assert Algorithm1().choose(state, "model") is None
    state.chunks[0].status = Status.DONE
    state.advance_front()
    assert what(Algorithm1().choose(state, "model")) == (1, "text")


def test_what_the_model_works_at_comes_first():
    state = load(1.0, prefill_s=0.3)
    state.chunks[0].status, state.recompute_began_s = Status.RECOMPUTING, 0.0
    assert what(Algorithm1().choose(state, "link")) == (1, "medium")
    state.slo_s = 1.3
    assert Algorithm1().choose(state, "link") is None


@pytest.mark.parametrize(("slo_s", "rate"), ((None, 1000.0), (5.0, None), (None, None)))
def test_the_default_level_where_something_is_unknown(slo_s: float | None, rate: float | None):
    state = load(slo_s, rate=rate)
    assert what(Algorithm1().choose(state, "link")) == (0, "high")
    assert Algorithm1().choose(state, "model") is None


def test_a_chunk_without_options_is_recomputed_when_it_is_its_turn():
    state = load(0.5)
    state.chunks[0].options = ()
    assert what(Algorithm1().choose(state, "model")) == (0, "text")
    assert what(Algorithm1().choose(state, "link")) == (1, "low")
    state.chunks[0].options, state.chunks[1].options = OPTIONS, ()
    assert Algorithm1().choose(state, "model") is None


def test_it_never_reconsiders():
    assert Algorithm1().reconsider(load(0.1)) is None
