import pytest

from cachegen.policy.controller import ChunkState, Decision, LoadState, Option, Status
from cachegen.policy.costs import Costs, PrefillCost
from cachegen.policy.fixed import Fixed

SIZES = {"low": 100, "medium": 200, "high": 400, "highest": 800}
OPTIONS = tuple(Option(name, size, rank) for rank, (name, size) in enumerate(SIZES.items()))


def load(*, slo_s: float | None = None, prefill_s: float = 9.9) -> LoadState:
    """Four chunks; recomputing takes `prefill_s` for one; the link gives 1000 bytes/s."""
    chunks = [ChunkState(100 * i, 100 * i + 100, OPTIONS) for i in range(4)]
    costs = Costs(PrefillCost(0.0, prefill_s / 100))
    return LoadState(chunks, costs, 2, slo_s=slo_s, bytes_per_s=1000.0)


def what(decision: Decision | None) -> tuple[int, str] | None:
    return decision and (decision.chunk, decision.level)


@pytest.mark.parametrize("level", SIZES)
def test_the_level_in_the_order_of_the_context(level: str):
    state = load()
    assert what(Fixed(level).choose(state, "link")) == (0, level)
    state.chunks[0].status = Status.DECODING
    assert what(Fixed(level).choose(state, "link")) == (1, level)
    assert Fixed(level).choose(state, "model") is None
    assert Fixed(level).reconsider(state) is None


@pytest.mark.parametrize(
    ("present", "taken"),
    ((("low", "highest"), "highest"), (("low", "medium"), "medium"), (("low", "high"), "high")),
)
def test_a_chunk_without_the_level_is_had_at_the_nearest(present: tuple[str, ...], taken: str):
    state = load()
    state.chunks[0].options = tuple(o for o in OPTIONS if o.level in present)
    assert what(Fixed("high").choose(state, "link")) == (0, taken)


def test_only_what_cannot_be_fetched_is_recomputed():
    state = load(prefill_s=1e-6)
    assert Fixed("high").choose(state, "model") is None
    state.chunks[0].options = ()
    assert what(Fixed("high").choose(state, "model")) == (0, "text")
    assert what(Fixed("high").choose(state, "link")) == (1, "high")


def test_a_level_that_no_chunk_has_any_more_is_the_default():
    state = load()
    for chunk in state.chunks:
        chunk.options = OPTIONS[:3]
    assert what(Fixed("highest").choose(state, "link")) == (0, "high")


@pytest.mark.parametrize(
    ("slo_s", "level"), ((9.0, "high"), (1.6, "high"), (1.5, "medium"), (0.5, "low"))
)
def test_a_smaller_level_where_a_deadline_asks_for_it(slo_s: float, level: str):
    assert what(Fixed("high").choose(load(slo_s=slo_s), "link")) == (0, level)


def test_text_where_no_level_meets_the_deadline():
    state = load(slo_s=0.3, prefill_s=0.05)
    assert Fixed("high").choose(state, "link") is None
    assert what(Fixed("high").choose(state, "model")) == (0, "text")


def test_the_level_all_the_same_where_nothing_meets_the_deadline():
    assert what(Fixed("high").choose(load(slo_s=0.3), "link")) == (0, "high")
