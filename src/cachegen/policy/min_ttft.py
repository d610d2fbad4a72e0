"""Least time to first token: recompute from the front while fetching from the back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachegen.codec.levels import EXACT_LEVELS
from cachegen.policy.controller import (
    ChunkState,
    Decision,
    LoadState,
    Option,
    Resource,
    Status,
    Transfer,
)
from cachegen.policy.deadline import SafetyMargins, careful, plan_in_time, text_in_time
from cachegen.policy.in_order import recompute_front
from cachegen.policy.schedule import (
    UNKNOWN_S,
    Plan,
    arrival_s,
    assumed_bytes_per_s,
    best_plan,
    chunks_left,
    decode_s,
    earliest_plan,
    ends,
    look,
    nearest,
    recompute_s,
)
from cachegen.policy.untried import untried

# Share of spare time to spend on better levels. Arbitrary: 0.4 to 1 end within 1% (200 simulated
# loads on links of simulation/varying.py, by hand).
_SURE = 0.7


@dataclass(frozen=True, slots=True)
class MinTTFT:
    """Recompute chunks from the front with the model while the link fetches them from the back.

    Without a deadline, choose the split and the level of default quality or better that end first
    (recomputing everything if that does), and a better level if the link would wait for the model
    anyway. With a deadline, choose the best level that meets it, or what ends first if none does.
    While the throughput is unknown, fetch at the smallest level of default quality. While the
    cost of recomputing is unknown, recompute nothing by choice and fetch in the order of the
    context; but try the model where the deadline is lost by fetching, or where the front chunk
    comes at no useful rate.

    Attributes:
        margins: how far plans may rely on estimates.
        gain: share of the remaining time that abandoning a transfer must save.
        least_gain_s: seconds that it must save at least.
        in_flight_bytes: bytes of an abandoned transfer that arrive all the same, before others.
    """

    margins: SafetyMargins = field(default_factory=SafetyMargins)
    # Arbitrary: 0.1 to 0.5, 2 to 50 ms, and 0 to 128 KiB end within 1%, and miss one deadline in
    # 100 more at most (200 simulated loads on links of simulation/varying.py, by hand).
    gain: float = 0.25
    least_gain_s: float = 0.01
    in_flight_bytes: int = 48 << 10

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """Choose the front chunk for the model, the last waiting one for the link."""
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
        """Recompute the front chunk, or fetch a smaller level, if that ends clearly earlier.

        With a deadline, another level is fetched only if the deadline would be missed otherwise.
        """
        if state.transfer is None:
            return None
        return untried(state) or self._by_model(state) or self._smaller(state, state.transfer)

    def _bar_s(self, goes_on_s: float) -> float:
        """Seconds within which the alternative to a transfer must end."""
        return goes_on_s * (1 - self.gain) - self.least_gain_s

    def _by_model(self, state: LoadState) -> Decision | None:
        """Recompute the front chunk if the model is idle and that beats its transfer in flight."""
        front = state.chunks[state.front]
        if front.status is not Status.FETCHING or state.recompute_began_s is not None:
            return None
        takes_s = recompute_s(state, front)
        goes_on_s = ends(state, assumed_bytes_per_s(state)).model_s
        if takes_s >= self._bar_s(goes_on_s):
            return None
        reason = f"recomputing ends in {takes_s:.3f} s, the transfer in {goes_on_s:.3f} s"
        return Decision.recompute(state.front, f"{_speed(state)}: {reason}")

    def _smaller(self, state: LoadState, transfer: Transfer) -> Decision | None:
        """Fetch a smaller level if that beats the transfer and the transfer misses the deadline.

        Prefer the best level that meets the deadline, else the one that arrives first; without a
        deadline, the one of default quality or better that arrives first.
        """
        rate = assumed_bytes_per_s(state)
        goes_on_s = _finish_s(state, transfer, rate)
        remaining_s = 0.0 if state.slo_s is None else state.slo_s - state.now_s
        bar_s = self._bar_s(goes_on_s)
        if bar_s <= 0 or goes_on_s <= remaining_s:
            return None
        chunk = state.chunks[transfer.chunk]
        least_rank = state.default_rank if state.slo_s is None else 0
        on_their_way = sum(transfer.missing_bytes for transfer in state.transfers)
        queue_s = min(on_their_way, self.in_flight_bytes) / rate
        takes_s = {
            option: queue_s + _anew_s(state, chunk, option)
            for option in reversed(chunk.options)
            if option.rank >= least_rank and option.size_bytes < transfer.missing_bytes
        }
        in_time = (option for option, seconds in takes_s.items() if seconds <= remaining_s)
        option = next(in_time, min(takes_s, key=takes_s.__getitem__, default=None))
        if option is None or takes_s[option] >= bar_s:
            return None
        reason = f"{option.level} ends in {takes_s[option]:.3f} s, the rest in {goes_on_s:.3f} s"
        return Decision.fetch(transfer.chunk, option.level, f"{_speed(state)}: {reason}")

    def _plan(self, state: LoadState, left: Sequence[int], target: int) -> Plan:
        options = state.chunks[target].options
        rate = assumed_bytes_per_s(state)
        if state.bytes_per_s is None:
            rank = nearest(options, state.default_rank).rank
            return best_plan(look(state, left, rate), rank)
        if state.slo_s is None:
            allowed = [o for o in options if o.rank >= state.default_rank] or options[-1:]
            outlook = look(state, left, rate)
            plan = earliest_plan(careful(outlook, self.margins.model), allowed)
            return text_in_time(outlook, plan.finish_s) or plan
        remaining_s = state.slo_s - state.now_s
        return plan_in_time(state, left, target, remaining_s=remaining_s, margins=self.margins)


def _next_to_fetch(state: LoadState, left: Sequence[int]) -> int | None:
    """The last chunk with options; the first if nothing is recomputed by choice."""
    can_compute = state.can_recompute and state.costs.prefill is not None
    order = reversed(left) if can_compute else iter(left)
    return next((index for index in order if state.chunks[index].options), None)


def _finish_s(state: LoadState, transfer: Transfer, rate: float) -> float:
    """Seconds until the chunk of a transfer is decoded."""
    chunk = state.chunks[transfer.chunk]
    return arrival_s(state, rate) + decode_s(state, chunk, transfer.option.level)


def _anew_s(state: LoadState, chunk: ChunkState, option: Option) -> float:
    """Seconds until the chunk is decoded if it is requested now."""
    transfer_s = state.costs.request_s + option.size_bytes / assumed_bytes_per_s(state)
    return transfer_s + decode_s(state, chunk, option.level)


def _compute(state: LoadState, plan: Plan) -> Decision | None:
    chunk = state.chunks[state.front]
    if not chunk.options:
        return Decision.recompute(state.front, "it cannot be fetched")
    if plan.split == 0 or plan.computed_s >= UNKNOWN_S:
        return None
    reason = f"recomputing ends at {state.now_s + plan.computed_s:.3f} s"
    return Decision.recompute(state.front, reason)


def _raised(state: LoadState, chunk: ChunkState, plan: Plan) -> Option:
    """The plan's option, or a better one that arrives while the model is busy anyway."""
    best = planned = nearest(chunk.options, plan.rank)
    if state.slo_s is not None or state.bytes_per_s is None or plan.finish_s >= UNKNOWN_S:
        return planned
    if planned.level in EXACT_LEVELS:
        return planned
    planned_decode_s = decode_s(state, chunk, planned.level)
    spare_s = _SURE * (plan.finish_s - plan.fetched_s)
    better = (option for option in chunk.options if option.rank > planned.rank)
    for option in better:
        longer_s = (option.size_bytes - planned.size_bytes) / assumed_bytes_per_s(state)
        longer_s += max(decode_s(state, chunk, option.level) - planned_decode_s, 0.0)
        if longer_s <= spare_s:
            best = option
        if option.level in EXACT_LEVELS:
            break
    return best


def _fetch(state: LoadState, target: int, option: Option, plan: Plan) -> Decision:
    reason = f"{_speed(state)}: {option.level} ends at {state.now_s + plan.finish_s:.3f} s"
    return Decision.fetch(target, option.level, reason)


def _speed(state: LoadState) -> str:
    if state.bytes_per_s is None:
        return "unknown throughput"
    return f"{state.bytes_per_s * 8e-6:.1f} Mbit/s"
