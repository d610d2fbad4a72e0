"""A context of four equal chunks at three levels, and controllers that are trivially right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cachegen.policy.controller import Decision, LoadState, Option, Resource, Status
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost
from cachegen.simulation.scenario import Chunk, Context, Request

SIZES = {"low": 1_000, "high": 4_000, "raw": 16_000}
LEVELS = tuple(Option(name, size, rank) for rank, (name, size) in enumerate(SIZES.items()))
COSTS = Costs(PrefillCost(0.0, 0.001), {"high": DecodeCost(0.01)}, request_s=0.005)


@dataclass(frozen=True, slots=True)
class InOrder:
    """Every chunk at one level from the front; recomputes the first `recomputed` ones."""

    level: str
    recomputed: int = 0

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        if resource == "model":
            mine = state.front < self.recomputed
            return Decision.recompute(state.front, "mine") if mine else None
        for index in range(self.recomputed, len(state.chunks)):
            if state.chunks[index].status is Status.WAITING:
                return Decision.fetch(index, self.level, "next")
        return None

    def reconsider(self, state: LoadState) -> Decision | None:
        return None


@pytest.fixture
def context() -> Context:
    chunks = tuple(Chunk(start, start + 100, LEVELS) for start in range(0, 400, 100))
    return Context(chunks, default_rank=1)


@pytest.fixture
def costs() -> Costs:
    return COSTS


@pytest.fixture
def in_order():
    return InOrder


@pytest.fixture
def request_for(context: Context):
    def make(controller, *, costs=COSTS, arrival_s=0.0, slo_s=None, context=context) -> Request:
        return Request(context, controller, costs, arrival_s, slo_s)

    return make
