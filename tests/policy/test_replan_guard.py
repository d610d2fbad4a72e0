from __future__ import annotations

from dataclasses import replace

import pytest

from cachegen.policy.controller import ChunkState, LoadState
from cachegen.policy.costs import Costs
from cachegen.policy.replan_guard import ReplanGuard

STATE = LoadState([ChunkState(0, 64, ())], Costs(), default_rank=0, now_s=1.0, bytes_per_s=1e6)


def test_it_holds_while_all_goes_as_planned() -> None:
    guard = ReplanGuard.of(STATE)
    assert guard.holds(STATE)
    assert guard.holds(replace(STATE, now_s=1.09, bytes_per_s=1.04e6))


@pytest.mark.parametrize(
    "change",
    [
        {"now_s": 1.11},
        {"bytes_per_s": 0.94e6},
        {"bytes_per_s": 1.06e6},
        {"bytes_per_s": None},
        {"low_bytes_per_s": 0.5e6},
        {"front": 1},
        {"model_share": 2},
    ],
    ids=lambda change: ", ".join(change),
)
def test_it_ends_when_something_changes(change) -> None:
    assert not ReplanGuard.of(STATE).holds(replace(STATE, **change))


def test_it_never_holds_without_a_throughput() -> None:
    unknown = replace(STATE, bytes_per_s=None)
    assert not ReplanGuard.of(unknown).holds(unknown)


def test_what_can_be_counted_on_decides() -> None:
    careful = replace(STATE, low_bytes_per_s=0.5e6)
    assert ReplanGuard.of(careful).holds(replace(careful, bytes_per_s=2e6))
