"""The steps at which levels cost what they may."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.progress import Progress, Status
from cachegen.codec.calibration.trials import Measure, Placed, Trials
from cachegen.codec.levels import (
    LADDER,
    PROMISED_KL,
    PROMISED_REL_PPL,
    EncodingLevel,
    Quality,
    worst,
)
from cachegen.codec.profile import StepLimits

PHASE = "levels"
# Of a target: what is aimed at, and what is close enough, for levels that keep the promise and for
# the others. As KL grows with the step's power 1.5, 0.85 of a target costs 0.16 bits a coefficient
# at most, and 0.75 0.28. With 0.85 for all SmolLM2's levels took 8 to 12 trials, with 0.75 five,
# but then the default level was placed at 0.8 of its target; with both, six (docs/LOG.md,
# 2026-12-01).
_TIGHT, _LOOSE = (0.94, 0.85), (0.9, 0.75)
# The lowest target, of the noise floor: nearer to it finer steps change KL by chance only, and cost
# a trial each. SmolLM2 reaches 1.02 of its floor in two trials, less than 1 in four. Other values
# were reasoned, not tried.
_ABOVE_NOISE = 1.1
# A level is left out where its step is more than this share of the step before: the two would be
# less than 0.2 bits a coefficient apart.
_COINCIDING = 0.87
# Arbitrary: 6 to 20, and 2 to 6, do; searches that go well take one to three trials.
_TRIALS, _REFINED = 10, 3
# Arbitrary: 4 to 32 do; from 1.8 to the finest step in five strides.
_STRIDE = 8
# The power of the step that KL grows with before trials tell one. To second order it is 2, but
# between the levels of SmolLM2 it is 1.4 to 1.6, as small coefficients become zeros. Beyond 1 to 3
# trials are noise.
_SLOPE, _SLOPES = 1.5, (1.0, 3.0)
# In units of a column's root mean square. Arbitrary, the first trial corrects it; the coarsest
# level of SmolLM2 is at 1.8 to 2, that of the shipped model at 4.
_FIRST_STEP = 1.8
# Arbitrary: 10^-5 to 10^-3 do; bfloat16 itself rounds by up to 2 * 10^-3 of a value.
_FINEST_STEP = 1e-4


def _aim(target: float) -> float:
    return target * (_TIGHT if target <= PROMISED_KL else _LOOSE)[0]


def _close(target: float) -> float:
    return target * (_TIGHT if target <= PROMISED_KL else _LOOSE)[1]


def cost(quality: Quality, target: float) -> float:
    """KL; where the target keeps the promise, what perplexity surely loses, in the same measure.

    So a level that is meant to keep the promise keeps both parts of it.
    """
    if target > PROMISED_KL:
        return quality.kl
    return max(quality.kl, quality.least_rel_ppl * target / PROMISED_REL_PPL)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Levels, smallest first, and a sentence for each whose target is out of reach."""

    levels: tuple[EncodingLevel, ...]
    out_of_reach: tuple[str, ...]


def place(
    measure: Measure,
    target_kl: Sequence[float],
    *,
    codec: str,
    limits: StepLimits,
    checkpoint: Checkpoint,
    progress: Progress,
    noise_floor: float = 0.0,
) -> Ladder:
    """Place every level of the ladder by the KL it may cost.

    A level whose target keeps the promise is placed where perplexity keeps it as well. A target out
    of reach is told at once, and its level placed at the best that was found; finer levels stay
    there too, as what they want is out of reach all the more. A level that would nearly coincide
    with the one before it is left out.

    Args:
        measure: the quality by domain of coding at a step.
        target_kl: one for each rung of the ladder, falling.
        codec: of the levels.
        limits: steps that a profile may hold.
        checkpoint: keeps what was measured.
        progress: told about every trial and every level.
        noise_floor: KL that the model differs from itself by; targets are at least 1.1 times it.

    Raises:
        ValueError: as `search`.
    """
    progress(Status(PHASE, 0, len(LADDER)))
    trials = Trials(measure, checkpoint, progress, phase=PHASE)
    levels: list[EncodingLevel] = []
    said: list[str] = []
    placed: Placed | None = None
    targets = [_within_reach(target, noise_floor) for target in target_kl]
    for rung, (name, target) in enumerate(zip(LADDER, targets, strict=True)):
        missed = placed is not None and cost(placed.quality, targets[rung - 1]) > targets[rung - 1]
        if placed is None or not missed:
            trial = partial(trials, level=name, done=rung)
            first = expected_step(trials.asked, _aim(target))
            placed = search(trial, target, coarser=placed, limits=limits, first=first)
        sentence = _out_of_reach(name, placed, target, trials.known)
        if levels and placed.step > _COINCIDING * levels[-1].step:
            missing = f"left out, it would nearly coincide with {levels[-1].name}"
            sentence = f"{sentence}; {missing}" if sentence else f"level {name}: {missing}"
        else:
            levels.append(EncodingLevel(name, codec, placed.step, placed.quality, placed.domains))
        said += [sentence] if sentence else []
        found = f"level {name}: step {placed.step:.4g}, KL {placed.quality.kl:.5f}"
        progress(Status(PHASE, rung + 1, len(LADDER), sentence or found))
    return Ladder(tuple(levels), tuple(said))


def _within_reach(target: float, noise_floor: float) -> float:
    """The target, or a tenth above the noise floor; what keeps the promise still does if it can."""
    above = _ABOVE_NOISE * noise_floor
    if target <= PROMISED_KL:
        above = max(min(above, PROMISED_KL), noise_floor)
    return max(target, above)


def expected_step(known: Mapping[float, Mapping[str, Quality]], target: float) -> float | None:
    """Where the target should be, between or beyond the two trials that are nearest to it.

    None before two trials.
    """
    points = [(step, worst(domains).kl) for step, domains in sorted(known.items())]
    finite = [(step, kl) for step, kl in points if 0 < kl < math.inf]
    if len(finite) < 2:
        return None
    behind = next((i for i, (_, kl) in enumerate(finite) if kl >= target), len(finite) - 1)
    one, other = finite[max(behind - 1, 0)], finite[max(behind, 1)]
    return one[0] * math.exp(math.log(target / one[1]) / _slope(one, other))


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Between two trials, each a step and its KL; within what is plausible."""
    if one[0] == other[0]:
        return _SLOPE
    found = math.log(one[1] / other[1]) / math.log(one[0] / other[0])
    return min(max(found, _SLOPES[0]), _SLOPES[1])


def search(
    trial: Callable[[float], Placed],
    target: float,
    *,
    coarser: Placed | None,
    limits: StepLimits,
    first: float | None = None,
) -> Placed:
    """The largest step found whose KL stays within the target, and preferably close to it.

    KL grows about with the step's power 1.5, or with the power that trials have shown; where that
    guess leaves the bracket the next trial is half-way, in logarithms. Where ten trials find
    nothing within the target, larger strides down to the finest step make sure that there is
    nothing; then the best found stands. Where a larger step changes nothing, none larger is tried.
    No step leaves the limits, so that there are few trials, whatever is measured.

    Args:
        trial: what is measured at a step.
        target: the KL that is allowed.
        coarser: of the level before, which no step found is larger than; None for the first.
        limits: steps that a profile may hold.
        first: step to try first, where earlier trials tell one.

    Raises:
        ValueError: no step gave finite numbers.
    """
    finest = max(_FINEST_STEP, limits.finest)
    if coarser is not None and (cost(coarser.quality, target) <= target or coarser.step <= finest):
        return coarser
    bracket, step = _Bracket(target, best=coarser), _FIRST_STEP
    if coarser is not None:
        bracket.high = coarser.step
        step = bracket.next_step(coarser) if first is None else min(first, coarser.step)
    step = min(max(step, finest), limits.coarsest)
    for _ in range(_TRIALS):
        found = bracket.add(trial(step))
        following = min(max(bracket.next_step(found), finest), limits.coarsest)
        if bracket.is_settled or following == step:
            break
        step = following
    while bracket.good is None and bracket.high > finest:
        bracket.add(trial(max(bracket.high / _STRIDE, finest)))
        for _ in range(_REFINED if bracket.good else 0):
            bracket.add(trial(math.sqrt(bracket.low * bracket.high)))
    result = bracket.good or bracket.best
    if result is None:
        raise ValueError(
            f"expected a finite KL at some step, got none down to {finest:.4g}: what the model "
            "predicts from coded caches, or from exact ones, is NaN or infinite; try it in a "
            "wider dtype"
        )
    return result


@dataclass(slots=True)
class _Bracket:
    """What trials have shown: the largest step within the target, the smallest beyond it.

    Attributes:
        target: the KL that is allowed.
        best: least KL beyond the target.
        good: largest step within the target; None so far.
        low: its step, or 0.
        high: least step known to be beyond the target.
        slope: the power of the step that KL grows with.
        is_flat: whether the last two trials measured the same.
    """

    target: float
    best: Placed | None
    slope: float = _SLOPE
    good: Placed | None = None
    low: float = 0.0
    high: float = math.inf
    is_flat: bool = False
    last: Placed | None = None

    def add(self, found: Placed) -> Placed:
        """Take a trial into account."""
        self.is_flat = self.last is not None and self.last.quality == found.quality
        pair = [(one.step, one.quality.kl) for one in (self.last, found) if one is not None]
        if len(pair) == 2 and all(0 < kl < math.inf for _, kl in pair):
            self.slope = _slope(*pair)
        self.last = found
        if found.is_finite and cost(found.quality, self.target) <= self.target:
            self.good, self.low = found, found.step
        else:
            self.high, self.best = found.step, _better(self.best, found)
        return found

    @property
    def is_settled(self) -> bool:
        """Whether the last trial is good enough to stop at, or no larger one can be another."""
        if self.last is None or self.last is not self.good:
            return False
        unbounded = self.is_flat and self.high == math.inf
        return unbounded or cost(self.good.quality, self.target) >= _close(self.target)

    def next_step(self, found: Placed) -> float:
        """Where the target should be, judging by the last trial."""
        hopeless = not found.is_finite or (self.is_flat and not self.good)
        lost = math.inf if hopeless else cost(found.quality, self.target)
        ratio = _aim(self.target) / max(lost, 1e-9)
        guess = found.step * math.exp(math.log(ratio) / self.slope) if ratio else 0.0
        guess = min(max(guess, found.step / _STRIDE), found.step * _STRIDE)
        if self.low < guess < self.high:
            return guess
        return math.sqrt(self.low * self.high) if self.low else self.high / 2


def _better(best: Placed | None, found: Placed) -> Placed | None:
    if not found.is_finite or (best is not None and best.quality.kl <= found.quality.kl):
        return best
    return found


def _out_of_reach(
    name: str, placed: Placed, target: float, known: Mapping[float, Mapping[str, Quality]]
) -> str:
    """A sentence for people where a level is not what was asked for; else nothing."""
    found = f"KL {placed.quality.kl:.4g} at step {placed.step:.4g}"
    if placed.quality.kl <= target < cost(placed.quality, target):
        lost = f"perplexity within {PROMISED_REL_PPL:g}, got {placed.quality.rel_ppl:.4g}"
        return f"level {name}: no step keeps {lost}; the best is {found}"
    if placed.quality.kl > target:
        return f"level {name}: no step keeps KL within {target:.4g}; the best is {found}"
    coarser = (worst(domains) for step, domains in known.items() if step > placed.step)
    is_low = placed.quality.kl < _close(target)
    if is_low and all(quality.kl <= target for quality in coarser):
        return f"level {name}: KL stays below {target:.4g} whatever the step; {found}"
    return ""
