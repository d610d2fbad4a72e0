"""The step at which a level costs what it may."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachegen.codec.levels import Quality

_CLOSE = 0.85
_TRIALS = 10
_FIRST_STEP = 0.3
_FINEST_STEP = 1e-4


@dataclass(frozen=True, slots=True)
class Placed:
    """A step and what was measured at it: the worst over the domains, and each of them."""

    step: float
    quality: Quality
    domains: Mapping[str, Quality]


def search(trial: Callable[[float], Placed], target: float, coarser: Placed | None) -> Placed:
    """The largest step found whose KL stays within the target, and preferably close to it.

    KL grows about with the square of the step; where that guess leaves the bracket the next trial
    is half-way, in logarithms. Where nothing reaches the target the best that was found stands.
    """
    if coarser is not None and coarser.quality.kl <= target:
        return coarser
    good, low, high = None, 0.0, float("inf")
    step, best = _FIRST_STEP, coarser
    if coarser is not None:
        step, high = _next_step(coarser, target, low, coarser.step), coarser.step
    for _ in range(_TRIALS):
        found = trial(step)
        if not math.isfinite(found.quality.kl):
            raise ValueError(f"expected a finite KL, got {found.quality.kl} at step {step}")
        if found.quality.kl <= target:
            good, low = found, step
            if found.quality.kl >= _CLOSE * target:
                break
        else:
            high = step
            best = found if best is None or found.quality.kl < best.quality.kl else best
        step = _next_step(found, target, low, high)
        if step < _FINEST_STEP:
            break
    result = good or best
    assert result is not None
    return result


def _next_step(found: Placed, target: float, low: float, high: float) -> float:
    guess = found.step * math.sqrt(0.95 * target / max(found.quality.kl, 1e-9))
    guess = min(max(guess, found.step / 8), found.step * 8)
    if low < guess < high:
        return guess
    return math.sqrt(low * high) if low else high / 2
