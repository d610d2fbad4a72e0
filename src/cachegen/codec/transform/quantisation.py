"""From coefficients to integers, token by token as it weighs, and what that loses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cachegen.codec.symbols import Unrepresentable, quantise
from cachegen.codec.transform.analysis import Analysed, tail_energies, tails
from cachegen.codec.transform.basis import IntegerBasis, Transform
from cachegen.codec.transform.importance import NUM_CLASSES, classes_of, multipliers

# FORMAT.md, section 6. 0.38 and 0.42 took more bits at equal KL (docs/LOG.md, 2026-11-21).
ROUNDING = 0.46
# FORMAT.md, section 6: a token that would lose more than so many times what is expected, beyond the
# coefficients that its class codes, gets a finer class. Without that KL was 0.023 in place of 0.005
# (docs/decisions/2026-11-29-token-weights.md). On SmolLM2 1 takes 3% to 9% more bits for a KL 2% to
# 5% lower, 4 is within 0.2% of 2 (docs/LOG.md, 2026-11-29, tuned constants).
_UNEXPECTED = 2.0
# FORMAT.md, section 6: a class of fewer tokens joins the next finer one. Arbitrary: 8 to 32 do; a
# class costs the headers of its blocks, some 300 bytes a group, joining up to a bit a coefficient.
_FEW_ROWS = 16

ActiveCounts = Sequence[Sequence[int]]


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
class QuantisedRows:
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


def row_classes(multipliers: np.ndarray | None, num_rows: int, *, fraction: int) -> list[RowClass]:
    """The classes that have tokens, finest first; one of all tokens where all weigh the same."""
    if multipliers is None:
        return [RowClass(0, np.arange(num_rows), np.full(num_rows, fraction))]
    classes = classes_of(multipliers)
    found = [(index, np.flatnonzero(classes == index)) for index in np.unique(classes).tolist()]
    return [RowClass(index, rows, multipliers[rows].astype(np.int64)) for index, rows in found]


def nominal_active(num_active: ActiveCounts) -> Sequence[int]:
    """Per group what tokens of ordinary weight have active; of all there is without weights."""
    return num_active[len(num_active) // 2]


@dataclass(frozen=True, slots=True, eq=False)
class Quantiser:
    """What a level rounds with.

    Attributes:
        transform: learned.
        step: in units.
        num_active: per class and group, coefficients that are coded.
        tails: per group, of the coefficients beyond those of each class, and beyond all.
        bases: per group, to tell what could overflow; where there are none nothing is told.
    """

    transform: Transform
    step: float
    num_active: ActiveCounts
    tails: tuple[torch.Tensor, ...]
    bases: Sequence[IntegerBasis] = ()

    @classmethod
    def of(
        cls,
        transform: Transform,
        *,
        step: float,
        num_active: ActiveCounts,
        bases: Sequence[IntegerBasis] = (),
    ) -> Quantiser:
        """For a step and counts per class and group."""
        blank = cls(transform, step, num_active, (), bases)
        mixtures = tuple(
            tails(group, blank._counts(index)) for index, group in enumerate(transform.groups)
        )
        return replace(blank, tails=mixtures)

    def quantise(
        self, analysed: Analysed, *, few_rows: int = _FEW_ROWS, finer: float = 1.0
    ) -> QuantisedRows:
        """Round to whole steps, the leading coefficients of each group, and measure what is lost.

        Args:
            analysed: the cache.
            few_rows: a class of fewer tokens joins the next finer one.
            finer: every token's step is so many times finer; 1 where all weigh the same.

        Raises:
            Unrepresentable: NaN or infinities.
        """
        grid = self.transform.grid
        energies = torch.stack(
            [
                tail_energies(analysed, group, mixtures, self._counts(group))
                for group, mixtures in enumerate(self.tails)
            ]
        )
        chosen = self._multipliers(analysed, energies.sum(dim=0).numpy(), finer)
        if chosen is not None:
            chosen = _without_small_classes(chosen, few_rows)
        classes = row_classes(chosen, analysed.num_rows, fraction=grid.fraction)
        weights = analysed.log_weights.exp().double()
        order = np.concatenate([one.rows for one in classes] or [np.zeros(0, dtype=np.int64)])
        integers: list[list[np.ndarray]] = [[] for _ in classes]
        lost = 0.0
        for group in range(len(self.transform.groups)):
            deepest = np.maximum.accumulate([own[group] for own in reversed(self.num_active)])[::-1]
            counts = np.repeat(
                [deepest[one.index] for one in classes], [len(one.rows) for one in classes]
            )
            rows = order if len(classes) > 1 else None
            coefficients, first = analysed.coefficients(group, rows=rows, counts=counts), 0
            for one, own in zip(classes, integers, strict=True):
                count, stop = self.num_active[one.index][group], first + len(one.rows)
                whole, energy = self._rounded(coefficients[first:stop, :count], one)
                energy += energies[group, one.index, one.rows]
                lost += float((energy * weights[one.rows]).sum())
                if self.bases and not _is_safe(whole, one.multipliers, self.bases[group]):
                    lost = np.inf
                own.append(whole)
                first = stop
        if np.isnan(lost):
            raise Unrepresentable
        return QuantisedRows(
            None if chosen is None else chosen.astype(np.uint8),
            tuple(classes),
            tuple(map(tuple, integers)),
            self.transform.unit**2 * lost / analysed.counted_rows,
        )

    def _counts(self, group: int) -> list[int]:
        """Coefficients of a group that each class codes, and all there are."""
        known = len(self.transform.groups[group].variances)
        return [*(active[group] for active in self.num_active), known]

    def _rounded(
        self, coefficients: torch.Tensor, one: RowClass
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Whole steps of the tokens of a class, and what each loses, float64 (rows,), in units."""
        grid = self.transform.grid
        steps = torch.from_numpy(one.multipliers).float() * (self.step / grid.fraction)
        scaled = coefficients / steps[:, None]
        whole = quantise(scaled, rounding=ROUNDING)
        largest = grid.most // one.multipliers[:, None]
        np.clip(whole, -largest, largest, out=whole)
        energy = scaled.sub_(torch.from_numpy(whole)).square_().sum(dim=1) * steps**2
        return whole, energy.double()

    def _multipliers(
        self, analysed: Analysed, missed: np.ndarray, finer: float
    ) -> np.ndarray | None:
        """Int64 (rows,): by what tokens weigh, finer where coefficients would be missed."""
        if self.transform.importance is None:
            return None
        chosen = multipliers(analysed.log_weights + 2 * math.log(finer)).numpy()
        expected = self._expected_tails() + (missed[-1].mean() if len(chosen) else 0.0)
        counts = np.array([sum(active) for active in self.num_active])
        rows = np.arange(len(chosen))
        for _ in self.num_active:
            own = classes_of(chosen)
            rounding = counts[own] * (self.step * chosen / self.transform.grid.fraction) ** 2 / 12
            unlike = missed[own, rows] > _UNEXPECTED * (expected[own] + rounding)
            if not (unlike & (chosen > 1)).any():
                break
            chosen = np.where(unlike, np.maximum(chosen // 2, 1), chosen)
        return chosen

    def _expected_tails(self) -> np.ndarray:
        """What tokens of each class miss of the coefficients learned, on average: float64."""
        return np.array(
            [
                sum(
                    group.variances[count:].sum(dtype=np.float64)
                    for group, count in zip(self.transform.groups, active, strict=True)
                )
                for active in self.num_active
            ]
        )


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
