"""From planes to integers: the first half of preset `transform`, which measures what it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from cachegen.codec.basis import IntegerBasis, Transform, fill_features, residual
from cachegen.codec.fixed import pack_planes
from cachegen.codec.importance import NUM_CLASSES, classes_of, multipliers
from cachegen.codec.rope import RopeMap
from cachegen.codec.rows import coded_planes, sinks_among
from cachegen.codec.symbols import Unrepresentable, quantise
from cachegen.kvcache import KVCache

ROUNDING = 0.46
# Nats per coefficient and row that mean squares of few rows show by chance, heavy tails included.
_CHANCE = 4.0
# A token that would lose more than so many times what is expected, beside the coefficients that its
# class codes, is coded with a finer class.
_UNEXPECTED = 2.0
# A class of fewer tokens joins the next finer one.
_FEW_ROWS = 16

ActiveCounts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """A cache before quantisation.

    Attributes:
        coefficients: per group float32 (rows, coefficients or more), in units.
        log_weights: float32 (rows,), what each token weighs; zeros where all weigh the same.
        sinks: the arrays `scales` and `codes` of the sinks.
    """

    coefficients: tuple[torch.Tensor, ...]
    log_weights: torch.Tensor
    sinks: dict[str, np.ndarray]

    @property
    def num_rows(self) -> int:
        """Tokens without sinks."""
        return len(self.log_weights)


@dataclass(frozen=True, slots=True, eq=False)
class RowClass:
    """Tokens of a chunk that are coded together.

    Attributes:
        index: of the class.
        rows: int64 (n,), which of the chunk's rows they are, ascending.
        multipliers: int64 (n,): a token's step is so many parts of the grid.
    """

    index: int
    rows: np.ndarray
    multipliers: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """Coefficients as integers.

    Attributes:
        multipliers: uint8 (rows,); None where all tokens weigh the same.
        classes: those that have tokens, finest first.
        integers: per class and group int32 (its rows, active coefficients).
        distortion: what rounding costs, nats for each token that follows, to second order;
            infinite where the sums of decoding could overflow.
    """

    multipliers: np.ndarray | None
    classes: tuple[RowClass, ...]
    integers: tuple[tuple[np.ndarray, ...], ...]
    distortion: float


def analyse(
    kv: KVCache, tokens: Sequence[int] | np.ndarray, transform: Transform, rope: RopeMap
) -> Analysed:
    """The coefficients of a complete cache of these tokens.

    Raises:
        Unrepresentable: a sink holds NaN or infinities.
    """
    skipped = sinks_among(kv.start, kv.num_tokens, most=transform.num_sinks)
    features = torch.empty(kv.num_tokens - skipped, transform.num_features)
    fill_features(features.numpy(), transform, tokens)
    planes = dict(coded_planes(kv, rope, most_sinks=transform.num_sinks))
    sinks = pack_planes([p[:, :skipped] for p in kv.planes()])
    coefficients = tuple(residual(group, planes, features) for group in transform.groups)
    if transform.importance is None:
        return Analysed(coefficients, torch.zeros(len(features)), sinks)
    log_weights = transform.importance.log_weights(
        coefficients,
        [group.variances for group in transform.groups],
        positions=np.arange(kv.start + skipped, kv.stop),
        last=kv.stop - 1,
    )
    return Analysed(coefficients, log_weights, sinks)


def row_classes(multipliers: np.ndarray | None, num_rows: int, *, fraction: int) -> list[RowClass]:
    """The classes that have tokens, finest first; one of all tokens where all weigh the same."""
    if multipliers is None:
        return [RowClass(0, np.arange(num_rows), np.full(num_rows, fraction))]
    classes = classes_of(multipliers)
    found = [(index, np.flatnonzero(classes == index)) for index in np.unique(classes).tolist()]
    return [RowClass(index, rows, multipliers[rows].astype(np.int64)) for index, rows in found]


def quantise_coefficients(
    analysed: Analysed,
    transform: Transform,
    *,
    step: float,
    num_active: ActiveCounts,
    bases: Sequence[IntegerBasis] = (),
    few_rows: int = _FEW_ROWS,
) -> Quantised:
    """Round to whole steps, the leading coefficients of each group, and measure what is lost.

    Args:
        analysed: the cache.
        transform: learned.
        step: of the level, in units.
        num_active: per class and group, coefficients that are coded.
        bases: per group, to tell what could overflow; where there are none nothing is told.
        few_rows: a class of fewer tokens joins the next finer one.

    Raises:
        Unrepresentable: NaN or infinities.
    """
    grid = transform.grid
    chosen = _multipliers(analysed, transform, step=step, num_active=num_active)
    if chosen is not None:
        chosen = _without_small_classes(chosen, few_rows)
    classes = row_classes(chosen, analysed.num_rows, fraction=grid.fraction)
    integers, lost = [], 0.0
    for one in classes:
        rows = torch.from_numpy(one.rows)
        steps = torch.from_numpy(one.multipliers).float() * (step / grid.fraction)
        largest = grid.most // one.multipliers[:, None]
        weights = analysed.log_weights[rows].exp()
        own = []
        for group, coefficients in enumerate(analysed.coefficients):
            count = num_active[one.index][group]
            chosen_rows = coefficients if len(rows) == len(coefficients) else coefficients[rows]
            scaled = chosen_rows[:, :count] / steps[:, None]
            whole = quantise(scaled, rounding=ROUNDING)
            np.clip(whole, -largest, largest, out=whole)
            energy = scaled.sub_(torch.from_numpy(whole)).square_().sum(dim=1) * steps**2
            energy += chosen_rows[:, count:].square().sum(dim=1)
            lost += float((energy * weights).sum(dtype=torch.float64))
            if bases and not _is_safe(whole, one.multipliers, bases[group]):
                lost = np.inf
            own.append(whole)
        integers.append(tuple(own))
    if np.isnan(lost):
        raise Unrepresentable
    distortion = transform.unit**2 * lost / max(analysed.num_rows, 1)
    stored = None if chosen is None else chosen.astype(np.uint8)
    return Quantised(stored, tuple(classes), tuple(integers), distortion)


def _multipliers(
    analysed: Analysed, transform: Transform, *, step: float, num_active: ActiveCounts
) -> np.ndarray | None:
    """Int64 (rows,): by what tokens weigh, finer where coefficients would be missed."""
    if transform.importance is None:
        return None
    chosen = multipliers(analysed.log_weights).numpy()
    missed, expected = _tails(analysed, transform, num_active)
    counts = np.array([sum(active) for active in num_active])
    rows = np.arange(len(chosen))
    for _ in num_active:
        own = classes_of(chosen)
        rounding = counts[own] * (step * chosen / transform.grid.fraction) ** 2 / 12
        unlike = missed[own, rows] > _UNEXPECTED * (expected[own] + rounding)
        if not (unlike & (chosen > 1)).any():
            break
        chosen = np.where(unlike, np.maximum(chosen // 2, 1), chosen)
    return chosen


def _tails(
    analysed: Analysed, transform: Transform, num_active: ActiveCounts
) -> tuple[np.ndarray, np.ndarray]:
    """What each class would miss of each row, float64 (classes, rows), and of all on average."""
    missed = np.zeros((len(num_active), analysed.num_rows))
    expected = np.zeros(len(num_active))
    for group, coefficients in enumerate(analysed.coefficients):
        variances = transform.groups[group].variances.astype(np.float64)
        guards = coefficients[:, len(variances) :].square().sum(dim=1).double().numpy()
        ends = sorted({active[group] for active in num_active} | {len(variances)}, reverse=True)
        energy, learned = {ends[0]: guards}, {ends[0]: float(guards.mean()) if len(guards) else 0.0}
        for after, before in pairwise(ends):
            own = coefficients[:, before:after].square().sum(dim=1).double().numpy()
            energy[before] = energy[after] + own
            learned[before] = learned[after] + variances[before:after].sum()
        for index, active in enumerate(num_active):
            missed[index] += energy[active[group]]
            expected[index] += learned[active[group]]
    return missed, expected


def _without_small_classes(chosen: np.ndarray, few_rows: int) -> np.ndarray:
    """Tokens of a class with few of them get the coarsest step of the next finer class."""
    for index in range(NUM_CLASSES - 1, 0, -1):
        own = classes_of(chosen) == index
        if 0 < np.count_nonzero(own) < few_rows:
            chosen = np.where(own, (1 << index) - 1, chosen)
    return chosen


def _is_safe(whole: np.ndarray, multipliers: np.ndarray, basis: IntegerBasis) -> bool:
    """Whether no sum of decoding can leave int32, see `integer_basis`."""
    if basis.spreads is None or not whole.size:
        return True
    spreads = basis.spreads[: whole.shape[1]].astype(np.float32)
    relative = whole * (multipliers[:, None].astype(np.float32) / spreads)
    return bool((np.square(relative).sum(axis=1) <= basis.reach).all())


def distance(one: Analysed, other: Analysed, transform: Transform) -> float:
    """What it costs to have one cache in place of another, nats per token, to second order."""
    weights = one.log_weights.exp()
    pairs = zip(one.coefficients, other.coefficients, strict=True)
    lost = sum(
        float(((left - right).square().sum(dim=1) * weights).sum(dtype=torch.float64))
        for left, right in pairs
    )
    return transform.unit**2 * lost / max(one.num_rows, 1)


def nominal_active(num_active: ActiveCounts) -> Sequence[int]:
    """Per group what tokens of ordinary weight have active; of all there is without weights."""
    return num_active[len(num_active) // 2]


def strangeness(analysed: Analysed, transform: Transform, *, num_active: Sequence[int]) -> float:
    """How far a chunk's coefficients are from those the transform has learned of.

    The Kullback-Leibler divergence, nats per coefficient, between normal distributions with the
    mean squares of this chunk and with those learned; what so few rows show by chance is taken off.

    Args:
        analysed: the chunk.
        transform: learned.
        num_active: of each group, the coefficients that are looked at.
    """
    found, count = 0.0, max(sum(num_active), 1)
    if not analysed.num_rows:
        return 0.0
    for coefficients, group, active in zip(
        analysed.coefficients, transform.groups, num_active, strict=True
    ):
        own = coefficients[:, :active].square().mean(dim=0, dtype=torch.float64)
        learned = torch.from_numpy(group.variances[:active]).double()
        ratio = own.clamp_min(1e-12) / learned.clamp_min(1e-12)
        found += float((ratio - 1 - ratio.log()).sum()) / 2
    return max(found / count - _CHANCE / analysed.num_rows, 0.0)
