"""What the transform codec has learned of a model: transforms of layer groups, text features.

    x = means + features @ prediction + coefficients @ synthesis        one token, a group's columns
    coefficients = (x - means - features @ prediction) @ analysis

Coefficients are in `unit`s: a change of one unit in one coefficient of every token costs unit**2
nats for each token that follows, to second order. Decoding runs in integers, see `integer_basis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

FRACTION = 32
LARGEST_COEFFICIENT = 511
_LARGEST_INT16 = 32767
_LARGEST_FEATURE = 128


@dataclass(frozen=True, slots=True, eq=False)
class LayerGroup:
    """Planes that are coded together.

    Attributes:
        planes: their indices, neighbours.
        means: float32 (columns,): the columns are the channels of the planes, in order.
        prediction: float16 (features, columns): what a feature of the text adds.
        synthesis: float16 (coefficients, columns), most important coefficient first.
        analysis: float16 (columns, coefficients or more): the first columns give the coefficients;
            what there are more give numbers whose squares tell, on average, how much lies outside
            all coefficients.
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
        strangeness: of the strangest context that was learned from; see `analysis.strangeness`.
    """

    groups: tuple[LayerGroup, ...]
    features: tuple[np.ndarray, ...]
    num_sinks: int
    unit: float
    strangeness: float

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
    first = 0
    ids = ids_before(tokens, num_lags=len(transform.features), num_rows=len(rows))
    for table, before in zip(transform.features, ids, strict=True):
        own = rows[:, first : first + table.shape[1]]
        own[:] = table.take(before, axis=0, mode="clip")
        own[(before < 0) | (before >= len(table))] = 0
        first += table.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class IntegerBasis:
    """A group's synthesis for one level, in integers.

    Attributes:
        rows: int16 (active coefficients + features, columns).
        scales: float32 (columns,), powers of two: what one unit of the sums stands for.
    """

    rows: np.ndarray
    scales: np.ndarray


def integer_basis(group: LayerGroup, *, step: float, num_active: int) -> IntegerBasis:
    """Synthesis of coefficients in 1/32 steps, and prediction, rounded to int16.

    A column's scale is the least power of two for which no entry leaves int16 and no sum int32,
    whatever coefficients (below 512 steps) and features are.
    """
    steps = group.synthesis[:num_active].astype(np.float64) * (step / FRACTION)
    rows = np.concatenate([steps, group.prediction.astype(np.float64)])
    largest = np.full(len(rows), float(_LARGEST_FEATURE))
    largest[:num_active] = FRACTION * (LARGEST_COEFFICIENT + 1)
    need = np.maximum(
        (np.abs(rows) * largest[:, None]).sum(axis=0) / (2.0**31 - largest.sum()),
        np.abs(rows).max(axis=0, initial=0.0) / _LARGEST_INT16,
    )
    scales = np.exp2(np.ceil(np.log2(np.maximum(need, 2.0**-100))))
    return IntegerBasis(np.rint(rows / scales).astype(np.int16), scales.astype(np.float32))


def residual(
    group: LayerGroup, planes: dict[int, torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    """Coefficients float32 (rows, coefficients or more) of a group.

    Args:
        group: learned.
        planes: un-rotated float32 rows (rows, width) of every plane, at least the group's.
        features: float32 (rows, features).
    """
    columns = torch.cat([planes[plane] for plane in group.planes], dim=1)
    columns.sub_(torch.from_numpy(group.means))
    columns.addmm_(features, _float32(group.prediction), alpha=-1.0)
    return columns @ _float32(group.analysis)


def _float32(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))
