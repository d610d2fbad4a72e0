from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachegen.engines.vllm.costs import TRIAL_SHARE
from cachegen.engines.vllm.worker.worth import WhileItPays, loads_s
from cachegen.policy.controller import ChunkState, LoadState, Option, Status, Transfer
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.policy.fixed import Fixed

SIZE = 100_000


def state(*, now_s: float, rate: float | None, done: int = 0) -> LoadState:
    options = (Option("high", SIZE, 0),)
    chunks = [ChunkState(256 * i, 256 * (i + 1), options) for i in range(4)]
    for chunk in chunks[:done]:
        chunk.status = Status.DONE
    chunks[done].status = Status.FETCHING
    found = LoadState(
        chunks,
        Costs(decode={"high": DecodeCost(0.01)}),
        0,
        can_recompute=False,
        now_s=now_s,
        bytes_per_s=rate,
        transfers=[Transfer(done, options[0], 0.0)],
    )
    found.advance_front()
    return found


def is_given_up(found: LoadState, *, token_s: float = 0.001, **options) -> bool:
    calls: list[int] = []
    WhileItPays(
        Fixed("high"), PrefillCost(0.0, token_s), lambda: calls.append(1), **options
    ).reconsider(found)
    return bool(calls)


def test_what_is_left_takes_link_and_decoder() -> None:
    assert loads_s(state(now_s=1.0, rate=1e6)) == pytest.approx(0.4 + 0.01)
    assert loads_s(state(now_s=1.0, rate=1e6, done=3)) == pytest.approx(0.1 + 0.01)
    assert loads_s(state(now_s=1.0, rate=1e9)) == pytest.approx(0.0004 + 0.04, rel=0.02)


@pytest.mark.parametrize(
    ("rate", "done", "given_up"),
    [(1e6, 0, False), (3e5, 0, True), (3e5, 3, True), (5e5, 3, False), (None, 3, True)],
)
def test_a_load_ends_once_computing_the_rest_is_faster(rate, done: int, given_up: bool) -> None:
    """1,024 tokens take 1.02 s, the last 256 take 0.26 s; nothing came for a second."""
    assert is_given_up(state(now_s=1.0, rate=rate, done=done)) == given_up


def test_a_load_that_has_just_begun_is_not_judged() -> None:
    assert not is_given_up(state(now_s=0.05, rate=1e3))
    assert is_given_up(state(now_s=0.07, rate=1e3))


def test_a_load_that_is_very_late_is_ended_whatever_is_estimated() -> None:
    """Computing everything takes 1.02 s, and as much has passed."""
    assert not is_given_up(state(now_s=1.02, rate=1e9))
    assert is_given_up(state(now_s=1.03, rate=1e9))
    assert not is_given_up(state(now_s=1.75, rate=1e9, done=3))
    assert is_given_up(state(now_s=1.80, rate=1e9, done=3))


def test_chunks_that_come_in_time_outweigh_an_estimate_and_not_one_far_off() -> None:
    """After 0.3 s half of what takes 1.02 s to compute is there; the rest takes 0.51 s to compute,
    and 0.2 MB to load."""
    assert not is_given_up(state(now_s=0.3, rate=3e5, done=2))
    assert is_given_up(state(now_s=0.7, rate=3e5, done=2)), "late"
    assert is_given_up(state(now_s=0.3, rate=1e5, done=2)), "far off"


@given(
    now_s=st.floats(0.0, 3.0),
    rate=st.one_of(st.none(), st.floats(1.0, 1e9)),
    done=st.integers(0, 3),
    start=st.sampled_from([0, 256, 512]),
)
def test_a_trial_costs_little_and_goes_on_while_it_pays(
    now_s: float, rate: float | None, done: int, start: int
) -> None:
    """Whatever is estimated: once it has ended, all takes 1.06 times as long as computing."""
    done = max(done, start // 256)
    found = state(now_s=now_s, rate=rate, done=done)
    rest_s, all_s = 0.001 * (1024 - 256 * done), 0.001 * (1024 - start)
    is_over = now_s + rest_s > (1 + TRIAL_SHARE) * all_s
    assert is_given_up(found, start=start, is_trial=True) == is_over


def test_a_trial_outlives_costs_that_are_not_true_any_more() -> None:
    """Decoding is said to take ten times as long as computing; chunks come all the same."""
    for done, now_s in ((0, 0.05), (1, 0.25), (2, 0.45), (3, 0.7)):
        found = state(now_s=now_s, rate=1e4, done=done)
        found.costs = Costs(decode={"high": DecodeCost(2.56)})
        assert not is_given_up(found, is_trial=True)
        assert done == 0 or is_given_up(found)


def test_decisions_are_the_others() -> None:
    found = state(now_s=0.0, rate=1e6)
    inner = Fixed("high")
    outer = WhileItPays(inner, PrefillCost(0.0, 1.0), lambda: None)
    assert outer.choose(found, "link") == inner.choose(found, "link") is not None
