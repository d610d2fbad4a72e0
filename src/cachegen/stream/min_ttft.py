"""The earliest end: compute from the front while loading from the back until they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.stream.controller import (
    ChunkState,
    Decision,
    LoadState,
    Option,
    Resource,
    Status,
    Transfer,
)
from cachegen.stream.in_order import recompute_front
from cachegen.stream.schedule import (
    UNKNOWN_S,
    Plan,
    arrival_s,
    assumed_bytes_per_s,
    best_plan,
    chunks_left,
    decode_s,
    ends,
    nearest,
    recompute_s,
)

_SURE = 0.7


@dataclass(frozen=True, slots=True)
class MinTTFT:
    """Both ends at once: the model from the front, the link from the back.

    Without a deadline: the split and the level, of default quality or better, with the earliest
    end, and a better level where the link would wait for the model anyway. With one: the best
    level with which it is met, or the earliest end where none is. While the throughput is
    unknown, the smallest level of default quality. Nothing is recomputed by choice where the
    cost of that is unknown; chunks are then fetched in the order of the context.

    Attributes:
        caution: share of the expected throughput that deadlines count on where nothing is known
            of how it varies.
        gain: share of the time left that abandoning a transfer must save.
        least_gain_s: seconds that it must save at least.
    """

    caution: float = 0.75
    gain: float = 0.25
    least_gain_s: float = 0.01

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """The chunk at the front for the model, the last one that waits for the link."""
        if resource == "model" and state.chunks[state.front].status is not Status.WAITING:
            return None
        left = chunks_left(state)
        target = _next_to_fetch(state, left)
        if target is None:
            return recompute_front(state, by_choice=False) if resource == "model" else None
        plan = self._plan(state, left, target)
        if resource == "model":
            return _compute(state, plan)
        if plan.split == len(left):
            return None
        option = _raised(state, state.chunks[target], plan)
        return _fetch(state, target, option, plan)

    def reconsider(self, state: LoadState) -> Decision | None:
        """A smaller level, or recomputing, where that is earlier by a margin.

        With a deadline only where it would be missed otherwise.
        """
        if state.transfer is None:
            return None
        rate = assumed_bytes_per_s(state)
        goes_on_s = _finish_s(state, rate)
        if state.slo_s is not None and goes_on_s <= state.slo_s - state.now_s:
            return None
        return self._instead(state, state.transfer, rate, goes_on_s)

    def _plan(self, state: LoadState, left: Sequence[int], target: int) -> Plan:
        options = state.chunks[target].options
        if state.bytes_per_s is None:
            rate = assumed_bytes_per_s(state)
            rank = nearest(options, state.default_rank).rank
            return best_plan(state, left, rank, free=ends(state, rate), bytes_per_s=rate)
        if state.slo_s is None:
            return _earliest(state, left, options, state.bytes_per_s)
        return self._in_time(state, left, options, state.slo_s - state.now_s)

    def _in_time(
        self, state: LoadState, left: Sequence[int], options: Sequence[Option], remaining_s: float
    ) -> Plan:
        """The best quality that ends in time, else the earliest end."""
        expected = assumed_bytes_per_s(state)
        rate = min(state.low_bytes_per_s or self.caution * expected, expected)
        free = ends(state, rate)
        plans = []
        for option in reversed(options):
            plan = best_plan(state, left, option.rank, free=free, bytes_per_s=rate)
            if plan.finish_s <= remaining_s:
                return plan
            plans.append(plan)
        return min(plans, key=lambda plan: plan.finish_s)

    def _instead(
        self, state: LoadState, transfer: Transfer, rate: float, goes_on_s: float
    ) -> Decision | None:
        """What ends sooner than the transfer under way by the margin; None where nothing does."""
        bar_s = goes_on_s * (1 - self.gain) - self.least_gain_s
        index, chunk = transfer.chunk, state.chunks[transfer.chunk]
        if index == state.front and state.recompute_began_s is None:
            by_model_s = recompute_s(state, chunk)
            if by_model_s < bar_s:
                reason = f"recomputing takes {by_model_s:.3f} s, the transfer {goes_on_s:.3f} s"
                return Decision.recompute(index, f"{_speed(state)}: {reason}")
        least_rank = 0 if state.slo_s is not None else state.default_rank
        for option in chunk.options:
            if option.rank < least_rank or option.size_bytes >= transfer.missing_bytes:
                continue
            anew_s = state.costs.request_s + option.size_bytes / rate
            if anew_s < bar_s:
                reason = f"{option.level} takes {anew_s:.3f} s, the rest {goes_on_s:.3f} s"
                return Decision.fetch(index, option.level, f"{_speed(state)}: {reason}")
        return None


def _next_to_fetch(state: LoadState, left: Sequence[int]) -> int | None:
    """The last chunk with options, or the first where the model may not take it by choice."""
    can_compute = state.can_recompute and state.costs.prefill is not None
    order = reversed(left) if can_compute else iter(left)
    return next((index for index in order if state.chunks[index].options), None)


def _earliest(
    state: LoadState, left: Sequence[int], options: Sequence[Option], rate: float
) -> Plan:
    """The earliest end at default quality or better; the better quality on a tie."""
    free = ends(state, rate)
    allowed = [o for o in options if o.rank >= state.default_rank] or [options[-1]]
    best: Plan | None = None
    for option in allowed:
        within_s = float("inf") if best is None else best.finish_s
        plan = best_plan(state, left, option.rank, free=free, bytes_per_s=rate, within_s=within_s)
        if best is None or plan.finish_s < best.finish_s:
            best = plan
    assert best is not None
    return best


def _finish_s(state: LoadState, rate: float) -> float:
    transfer = state.transfer
    assert transfer is not None
    chunk = state.chunks[transfer.chunk]
    return arrival_s(state, rate) + decode_s(state, chunk, transfer.option.level)


def _compute(state: LoadState, plan: Plan) -> Decision | None:
    chunk = state.chunks[state.front]
    if not chunk.options:
        return Decision.recompute(state.front, "it cannot be fetched")
    if plan.split == 0 or plan.computed_s >= UNKNOWN_S:
        return None
    reason = f"recomputing ends at {state.now_s + plan.computed_s:.3f} s"
    return Decision.recompute(state.front, reason)


def _raised(state: LoadState, chunk: ChunkState, plan: Plan) -> Option:
    """The plan's option, or a better one for which the link has time while the model works."""
    planned = nearest(chunk.options, plan.rank)
    if state.slo_s is not None or not state.bytes_per_s:
        return planned
    spare_s = _SURE * (plan.finish_s - plan.fetched_s)
    for option in reversed(chunk.options):
        longer_s = (option.size_bytes - planned.size_bytes) / state.bytes_per_s
        longer_s += decode_s(state, chunk, option.level) - decode_s(state, chunk, planned.level)
        if option.rank > planned.rank and longer_s <= spare_s:
            return option
    return planned


def _fetch(state: LoadState, target: int, option: Option, plan: Plan) -> Decision:
    reason = f"{_speed(state)}: {option.level} ends at {state.now_s + plan.finish_s:.3f} s"
    return Decision.fetch(target, option.level, reason)


def _speed(state: LoadState) -> str:
    if state.bytes_per_s is None:
        return "unknown throughput"
    return f"{state.bytes_per_s * 8e-6:.1f} Mbit/s"
