"""Plans that meet a deadline at the best quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cachegen.codec.levels import EXACT_LEVELS
from cachegen.policy.controller import LoadState, Option
from cachegen.policy.schedule import (
    UNKNOWN_S,
    Ends,
    Outlook,
    Plan,
    assumed_bytes_per_s,
    best_plan,
    decode_s,
    earliest_plan,
    first_arrival_s,
    look,
)


@dataclass(frozen=True, slots=True)
class SafetyMargins:
    """How far plans may rely on estimates.

    Attributes:
        low: share of the expected throughput to count on if its variation is unknown.
        worst: share of that throughput at which the deadline must still be met when all chunks
            after the next one are fetched at the smallest level.
        model: factor on the expected time of a recompute, which shares the machine with the rest
            of the load and cannot be abandoned.
        bet: a recompute that itself ends after the deadline is begun only if the load then ends
            within this share of the time that fetching takes.
    """

    # "Alike" and KL: 200 simulated loads on links of simulation/varying.py, by hand.
    # For states without `low_bytes_per_s`, which loads always tell. Arbitrary: 0.5 to 1 does.
    low: float = 0.75
    # 0.3 to 0.9 meet the same deadlines but for 2 in 100, at a mean KL of 0.0036 to 0.0028.
    worst: float = 0.6
    # 1.0 meets 97.5% of deadlines instead of 99% and is late at 3 of 8 rates (docs/LOG.md,
    # 2026-11-21, deadlines and real links); 1.5 takes 2% longer.
    model: float = 1.2
    # Arbitrary: 0.3 to 0.9 end alike.
    bet: float = 0.5


def plan_in_time(
    state: LoadState,
    left: Sequence[int],
    target: int,
    *,
    remaining_s: float,
    margins: SafetyMargins,
) -> Plan:
    """The plan of best quality that ends in time; the one that ends first if none does.

    Recomputing and exact levels are of equal quality: of those the earliest end wins. ``target`` is
    the chunk to fetch next, ``remaining_s`` the seconds until the deadline.
    """
    expected = assumed_bytes_per_s(state)
    rate = min(state.low_bytes_per_s or margins.low * expected, expected)
    outlook = careful(look(state, left, rate), margins.model)
    by_text = text_in_time(outlook, remaining_s)
    slower = margins.worst * rate
    exact: list[Plan] = []
    for option in reversed(state.chunks[target].options):
        is_exact = option.level in EXACT_LEVELS
        if exact and not is_exact:
            break
        if by_text is None and first_arrival_s(outlook, option) > remaining_s:
            continue
        plan = best_plan(outlook, option.rank, within_s=remaining_s)
        if plan.finish_s > remaining_s:
            continue
        if _worst_s(outlook, target, option, slower) > remaining_s:
            continue
        if not is_exact:
            return by_text or plan
        exact.append(plan)
    if exact:
        return min(exact, key=lambda plan: plan.finish_s)
    options = state.chunks[target].options
    late = careful(look(state, left, expected), margins.model)
    return _late_plan(late, options, remaining_s, margins.bet)


def careful(outlook: Outlook, model: float) -> Outlook:
    """The outlook with all recompute times multiplied by ``model``."""
    compute_s = [model * seconds for seconds in outlook.compute_s]
    return Outlook(outlook.state, outlook.left, outlook.bytes_per_s, outlook.free, compute_s)


def _worst_s(outlook: Outlook, target: int, option: Option, bytes_per_s: float) -> float:
    """When the load ends at a lower throughput with all later chunks at the smallest level."""
    state, free = outlook.state, outlook.free
    link_s = max(free.link_s, state.costs.request_s) + option.size_bytes / bytes_per_s
    decoder_s = max(free.decoder_s, link_s) + decode_s(state, state.chunks[target], option.level)
    others = [i for i, index in enumerate(outlook.left) if index != target]
    after = Outlook(
        state,
        [outlook.left[i] for i in others],
        bytes_per_s,
        Ends(link_s, decoder_s, free.model_s),
        [outlook.compute_s[i] for i in others],
    )
    return best_plan(after, 0).finish_s


def text_in_time(outlook: Outlook, remaining_s: float) -> Plan | None:
    """The plan that recomputes all waiting chunks; None if it ends too late."""
    fetched_s = outlook.free.decoder_s
    text_s = outlook.free.model_s + sum(outlook.compute_s)
    finish_s = max(text_s, fetched_s)
    if finish_s > remaining_s:
        return None
    return Plan(0, len(outlook.left), finish_s, fetched_s, text_s)


def _late_plan(outlook: Outlook, options: Sequence[Option], remaining_s: float, bet: float) -> Plan:
    """The plan that ends first; no recompute beyond the deadline unless ``bet`` allows it."""
    plan = earliest_plan(outlook, options)
    if plan.split == 0 or outlook.free.model_s + outlook.compute_s[0] <= remaining_s:
        return plan
    without_model = replace(outlook, compute_s=[UNKNOWN_S] * len(outlook.left))
    fetched = best_plan(without_model, options[0].rank)
    return plan if plan.finish_s < bet * fetched.finish_s else fetched
