"""A model of unknown cost is tried where fetching is of no use."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachegen.policy.controller import ChunkState, LoadState, Option, Status, Transfer
from cachegen.policy.costs import Costs, PrefillCost
from cachegen.policy.fixed import Fixed
from cachegen.policy.min_ttft import MinTTFT

OPTION = Option("high", 100_000, 0)
CONTROLLERS = (MinTTFT(), Fixed("high"))


def fetching(
    *, rate: float | None, slo_s: float | None = None, now_s: float = 0.5, received: int = 0
) -> LoadState:
    """Four chunks of 1,000 tokens, of which the first is on its way since 0."""
    chunks = [ChunkState(1000 * i, 1000 * i + 1000, (OPTION,)) for i in range(4)]
    chunks[0].status, chunks[0].level = Status.FETCHING, "high"
    state = LoadState(chunks, Costs(), 0, slo_s=slo_s, now_s=now_s, bytes_per_s=rate)
    state.transfers = [Transfer(0, OPTION, 0.0, received)]
    return state


def is_tried(state: LoadState, controller: MinTTFT | Fixed) -> bool:
    decision = controller.reconsider(state)
    if decision is None or decision.action != "recompute":
        return False
    assert decision.chunk == 0 and "the model may be faster" in decision.reason
    return True


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize(
    ("rate", "tried"), [(1e6, False), (100_000, False), (2000, False), (900, True), (128, True)]
)
def test_where_a_token_would_take_a_tenth_of_a_second(controller, rate: float, tried: bool):
    assert is_tried(fetching(rate=rate), controller) == tried


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize(
    ("rate", "slo_s", "tried"),
    [
        (1e6, 2.0, False),  # ends at 0.9 s
        (200_000, 2.0, False),  # at 2.5 s: late, and no more
        (50_000, 2.0, True),  # at 8.5 s
        (500_000, 0.1, False),  # within a second from now
        (50_000, 20.0, False),
    ],
)
def test_where_the_deadline_is_lost(controller, rate: float, slo_s: float, tried: bool):
    assert is_tried(fetching(rate=rate, slo_s=slo_s), controller) == tried


@pytest.mark.parametrize(("now_s", "tried"), [(0.1, False), (1.0, True)])
def test_where_nothing_comes_before_a_deadline(now_s: float, tried: bool):
    """A link of which nothing is known gets worse the longer it is silent."""
    assert is_tried(fetching(rate=None, slo_s=2.0, now_s=now_s), MinTTFT()) == tried


def test_not_where_the_cost_is_known_or_there_is_no_model():
    state = fetching(rate=128)
    assert not is_tried(replace(state, can_recompute=False), MinTTFT())
    assert not is_tried(replace(state, recompute_began_s=0.4), MinTTFT())
    known = replace(state, costs=Costs(PrefillCost(1e9, 1.0)))
    assert not is_tried(known, MinTTFT()) and not is_tried(known, Fixed("high"))
