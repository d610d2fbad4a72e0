"""What the transform codec has learned of a model: transforms of layer groups, text features.

    x = means + features @ prediction + coefficients @ synthesis        one token, a group's columns
    coefficients = (x - means - features @ prediction) @ analysis

Coefficients are in `unit`s: a change of one unit in one coefficient of every token costs unit**2
nats for each token that follows, to second order. Decoding runs in integers, see `integer_basis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from cachegen.codec.transform.importance import NUM_CLASSES, ONE, Importance

# Bounds of the types: coefficients and basis int16, features int8, sums int32.
_LARGEST_INT16 = 32767
_LARGEST_FEATURE = 128
_SUMS = 2.0**31
# Columns of an analysis that only measure what lies outside all coefficients. Energies of d alike
# directions err by sqrt(2 / d / 16), see `tails`: 4% of 100 directions.
GUARD_COLUMNS = 16
# FORMAT.md, section 7: coefficients of a group with the precision of float16. With 8 bits for the
# others KL and bits stay the same (docs/decisions/2026-11-29-token-weights.md).
PRECISE = 128
# FORMAT.md, section 6: how far a row may be from what was learned, in mean squares of its
# coefficients: eight spreads in every one. A bound: what is farther is no text that was learned
# from and gets the next level; twice as many spreads would double scales, and what rounding to them
# loses, wherever sums decide them (docs/decisions/2026-11-29-token-weights.md has the inequality).
_REACH = 64.0
# Behind the last coefficient whose mean square is more squared steps than this, a basis has 8 bits
# (docs/decisions/2026-11-29-eight-bit-tail.md has 16 beside 32).
_FEW_STEPS = 16.0
# An entry of such a basis is a byte times a power of two: 127 * 2^8 is the most that int16 holds.
_LARGEST_BYTE = 127
_MOST_SHIFT = 8
# Arbitrary: 2^16 to 2^24 do. Values in float64 at once: all would take 16 times the profile's.
_STRIPE_VALUES = 1 << 18


@dataclass(frozen=True, slots=True)
class Grid:
    """The whole numbers that coefficients are on: parts of a level's step.

    Attributes:
        fraction: how many parts a step is.
        most: the largest magnitude of a coefficient, in parts of a step.
        by_reach: whether sums are bounded by what was learned, not by the worst case.
    """

    fraction: int
    most: int
    by_reach: bool


# FORMAT.md, section 6: of profiles without importance (version 1), and with it.
EVEN_GRID = Grid(fraction=32, most=511 * 32, by_reach=False)
WEIGHTED_GRID = Grid(fraction=ONE, most=_LARGEST_INT16, by_reach=True)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LayerGroup:
    """Planes that are coded together.

    Attributes:
        planes: their indices, neighbours.
        means: float32 (columns,): the columns are the channels of the planes, in order.
        prediction: float16 (features, columns): what a feature of the text adds.
        synthesis: float16 (coefficients, columns), most important coefficient first.
        analysis: float16 (columns, coefficients or more): the first columns give the coefficients;
            what there are more give numbers whose squares tell, on average, how much lies outside
            all coefficients. No columns in what only decodes.
        variances: float32 (coefficients,): mean squares of the coefficients, in units.
    """

    planes: tuple[int, ...]
    means: np.ndarray
    prediction: np.ndarray
    synthesis: np.ndarray
    analysis: np.ndarray
    variances: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """All that decoding needs beside the levels.

    Attributes:
        groups: every plane is in one of them.
        features: int8 (vocabulary, features), numbers that tell about keys and values: a table for
            the token itself, one for the token before it, and so on.
        num_sinks: first tokens of a context that are kept at eight bits.
        unit: of coefficients, in square roots of nats per token.
        ood_score: the largest among the contexts that were learned from; see `analysis.ood_score`.
        importance: what tokens weigh; None where all weigh the same.
    """

    groups: tuple[LayerGroup, ...]
    features: tuple[np.ndarray, ...]
    num_sinks: int
    unit: float
    ood_score: float
    importance: Importance | None = None

    @property
    def grid(self) -> Grid:
        """Where coefficients are whole numbers."""
        return EVEN_GRID if self.importance is None else WEIGHTED_GRID

    @property
    def num_classes(self) -> int:
        """Into how many classes tokens fall by their steps."""
        return 1 if self.importance is None else NUM_CLASSES

    @property
    def can_encode(self) -> bool:
        """Whether it holds what only encoding needs."""
        return all(group.analysis.shape[1] >= len(group.variances) for group in self.groups)

    @property
    def num_features(self) -> int:
        """Features of a row, over all lags."""
        return sum(table.shape[1] for table in self.features)


def ids_before(
    tokens: Sequence[int] | np.ndarray, *, num_lags: int, num_rows: int
) -> list[np.ndarray]:
    """The ids 0, 1, ... tokens before each of the last `num_rows`: int64, -1 before the first."""
    ids = np.full(num_lags + len(tokens), -1, dtype=np.int64)
    ids[num_lags:] = tokens
    return [ids[len(ids) - num_rows - lag : len(ids) - lag] for lag in range(num_lags)]


def fill_features(
    rows: np.ndarray, transform: Transform, tokens: Sequence[int] | np.ndarray
) -> None:
    """Write the features of the last ``len(rows)`` tokens of a chunk.

    Zeros stand for tokens before the first and for ids beyond the vocabulary.

    Args:
        rows: (rows, features), of any type of numbers.
        transform: learned.
        tokens: of the whole chunk.
    """
    ids = ids_before(tokens, num_lags=len(transform.features), num_rows=len(rows))
    features_before(rows, transform, ids)


def features_before(rows: np.ndarray, transform: Transform, ids: Sequence[np.ndarray]) -> None:
    """As `fill_features`, of the ids 0, 1, ... tokens before each row, -1 where there is none."""
    first = 0
    for table, before in zip(transform.features, ids, strict=True):
        own = rows[:, first : first + table.shape[1]]
        own[:] = table.take(before, axis=0, mode="clip")
        own[(before < 0) | (before >= len(table))] = 0
        first += table.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class IntegerBasis:
    """A group's synthesis for one level, in integers.

    Attributes:
        rows: int16 (active coefficients, columns).
        prediction: int16 (features, columns).
        scales: float32 (columns,), powers of two: what one unit of the sums stands for.
        tail: from which row on each column is of multiples of a power of two, which leaves whole
            numbers of -127 to 127.
        spreads: float64 (active coefficients,): what coefficients are expected to be, on the grid;
            rows beyond `reach` times that could overflow. None where none can.
    """

    rows: np.ndarray
    prediction: np.ndarray
    scales: np.ndarray
    tail: int
    spreads: np.ndarray | None = None

    @property
    def reach(self) -> float:
        """The largest sum of squares of a row's coefficients over their spreads that is safe."""
        return math.inf if self.spreads is None else _REACH * len(self.spreads)


def integer_basis(
    group: LayerGroup, *, step: float, num_active: int, grid: Grid = EVEN_GRID
) -> IntegerBasis:
    """Synthesis of coefficients on the grid, and prediction, rounded to int16; a tail to 8 bits.

    A column's scale is the least power of two for which no entry leaves int16 and no sum int32:
    on the even grid whatever coefficients and features are; on the weighted grid for all rows
    within `reach`, by the inequality of Cauchy and Schwarz.

    On the weighted grid the tail is what lies behind the last coefficient with a mean square above
    16 squared steps: there a column's entries are rounded to multiples of the least power of two,
    times its scale, of which none is more than 127. That is off by no more than half such a
    multiple, hence, where it is more than one scale, by the 127th part of the largest entry.
    """
    spreads: np.ndarray | None = None
    tail = num_active
    if grid.by_reach:
        learned = group.variances[:num_active].astype(np.float64) / step**2
        spreads = grid.fraction * np.sqrt(learned + 1)
        tail = int(np.flatnonzero(learned > _FEW_STEPS).max(initial=-1)) + 1
    synthesis, prediction = group.synthesis[:num_active], group.prediction
    rows = np.empty(synthesis.shape, dtype=np.int16)
    features = np.empty(prediction.shape, dtype=np.int16)
    scales = np.empty(synthesis.shape[1], dtype=np.float32)
    for own in _stripes(synthesis.shape[1], len(synthesis) + len(prediction)):
        rows[:, own], features[:, own], scales[own] = _integers(
            synthesis[:, own].astype(np.float64) * (step / grid.fraction),
            prediction[:, own].astype(np.float64),
            grid=grid,
            spreads=spreads,
            tail=tail,
        )
    return IntegerBasis(rows, features, scales, tail, spreads)


def _stripes(columns: int, rows: int) -> Iterator[slice]:
    """Columns to work on at once. No stripe has fewer than two: NumPy sums one in another order."""
    each = max(2, _STRIPE_VALUES // max(rows, 1))
    stops = [*range(each, columns - 1, each), columns]
    return (slice(first, stop) for first, stop in pairwise([0, *stops]))


def _integers(
    steps: np.ndarray,
    prediction: np.ndarray,
    *,
    grid: Grid,
    spreads: np.ndarray | None,
    tail: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows, prediction and scales of some columns, as in `IntegerBasis`, still float64.

    Args:
        steps: float64 (active coefficients, columns), what coefficients on the grid add.
        prediction: float64 (features, columns).
        grid: of the coefficients.
        spreads, tail: as in `IntegerBasis`.
    """
    of_features = _LARGEST_FEATURE * np.abs(prediction).sum(axis=0)
    rounding = float(_LARGEST_FEATURE * len(prediction))
    largest_of_tail = np.abs(steps[tail:]).max(axis=0, initial=0.0)
    if spreads is not None:
        longest = math.sqrt(_REACH * len(steps))
        of_steps = longest * np.sqrt(((spreads[:, None] * steps) ** 2).sum(axis=0))
        rounding += longest * math.sqrt(float((spreads**2).sum()))
        coarseness = longest * math.sqrt(float((spreads[tail:] ** 2).sum()))
        of_steps = of_steps + coarseness * largest_of_tail / _LARGEST_BYTE
    else:
        largest = grid.most + grid.fraction
        of_steps = largest * np.abs(steps).sum(axis=0)
        rounding += largest * len(steps)
    largest_entry = np.maximum(
        np.abs(steps).max(axis=0, initial=0.0), np.abs(prediction).max(axis=0, initial=0.0)
    )
    need = np.maximum(
        (of_steps + of_features) / max(_SUMS - rounding, 1.0), largest_entry / _LARGEST_INT16
    )
    need = np.maximum(need, largest_of_tail / (_LARGEST_BYTE << _MOST_SHIFT))
    scales = np.exp2(np.ceil(np.log2(np.maximum(need, 2.0**-100))))
    rows, features = (np.rint(one / scales) for one in (steps, prediction))
    units = np.exp2(np.ceil(np.log2(np.maximum(largest_of_tail / (_LARGEST_BYTE * scales), 1.0))))
    rows[tail:] = np.rint(steps[tail:] / (units * scales)) * units
    return rows, features, scales


def residual(group: LayerGroup, columns: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """What means and prediction leave of a group's columns, in their place.

    Args:
        group: learned.
        columns: float32 (rows, columns): un-rotated keys, and values, of the group's planes.
        features: float32 (rows, features).
    """
    columns.sub_(torch.from_numpy(group.means))
    return columns.addmm_(features, float32(group.prediction), alpha=-1.0)


def float32(array: np.ndarray) -> torch.Tensor:
    """A tensor of float32 with the same numbers."""
    return torch.from_numpy(np.ascontiguousarray(array)).float()
