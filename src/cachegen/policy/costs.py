"""How long the machine takes: prefill and decoding, fitted from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4
_USUAL = 0.03
_AS_GOOD = 1.1
_ROUNDING = 1e-9
_SINGULAR = 1e-8


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """Seconds to compute the cache of n tokens after p earlier ones: a + b n + c n (2p + n).

    Attributes:
        a_s: per call.
        b_s: per token.
        c_s: per token and token attended to, halved.
    """

    a_s: float
    b_s: float
    c_s: float = 0.0

    def seconds(self, num_tokens: int, *, past: int = 0) -> float:
        """The estimate; 0 for no tokens."""
        if not num_tokens:
            return 0.0
        return self.a_s + self.b_s * num_tokens + self.c_s * num_tokens * (2 * past + num_tokens)


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds to decode a chunk of n tokens and put it in its place: a + b n.

    Attributes:
        a_s: per chunk.
        b_s: per token.
    """

    a_s: float = 0.0
    b_s: float = 0.0

    def seconds(self, num_tokens: int) -> float:
        """The estimate."""
        return self.a_s + self.b_s * num_tokens


@dataclass(frozen=True, slots=True)
class Costs:
    """What a load costs besides the link.

    Attributes:
        prefill: None when nothing is known, so that nothing is recomputed by choice.
        decode: by level; levels that are not there cost nothing as far as is known.
        request_s: from asking for an object to its first byte.
    """

    prefill: PrefillCost | None = None
    decode: Mapping[str, DecodeCost] = field(default_factory=dict)
    request_s: float = 0.0

    def decode_s(self, level: str, num_tokens: int) -> float:
        """Seconds to decode a chunk of so many tokens at a level."""
        cost = self.decode.get(level)
        return 0.0 if cost is None else cost.seconds(num_tokens)


def fit_prefill(samples: Sequence[tuple[int, int, float]]) -> PrefillCost | None:
    """The cost behind (tokens, tokens before them, seconds); None where there are none."""
    samples = [sample for sample in samples if sample[0] > 0 and sample[2] > 0]
    if not samples:
        return None
    features = [(1.0, n, n * (2 * past + n)) for n, past, _ in samples]
    a_s, b_s, c_s = _fit(features, [seconds for *_, seconds in samples])
    return PrefillCost(a_s, b_s, c_s)


def fit_decode(samples: Sequence[tuple[int, float]]) -> DecodeCost:
    """The cost behind (tokens, seconds); nothing where there are no samples."""
    samples = [sample for sample in samples if sample[0] > 0 and sample[1] > 0]
    if not samples:
        return DecodeCost()
    a_s, b_s = _fit([(1.0, n) for n, _ in samples], [seconds for _, seconds in samples])
    return DecodeCost(a_s, b_s)


def _fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Coefficients, none negative, of least relative error; samples far off count little.

    Errors are relative to the longer of the two times, so that a time too short by a factor is
    as wrong as one too long. The first estimate is the median of the times per token.
    """
    times = np.array(seconds)
    relative = np.array(features, dtype=np.float64) / times[:, None]
    scale = relative.max(axis=0)
    relative /= scale
    ratios = relative[:, 1] / _median(relative[:, 1])
    found = np.zeros(relative.shape[1])
    for _ in range(_ROUNDS):
        shares = 1 / np.maximum(ratios, 1)
        off = np.abs(ratios - 1) * shares
        usual = max(_median(off), _USUAL)
        found = _non_negative(relative, (shares / np.maximum(off / usual, 1)) ** 2)
        ratios = relative @ found
    return [float(value) for value in found / scale]


def _median(values: NDArray[np.float64]) -> float:
    """NumPy's imports a module on its first call, which would cost the first load its time and
    hang in a child that is forked meanwhile."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] + ordered[~middle]) / 2


def _non_negative(
    relative: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares of `relative @ found = 1`: the best subset without a negative.

    Of subsets about as good, the first.
    """
    weighted = relative * (weights / weights.sum())[:, None]
    squares, sums = weighted.T @ relative, weighted.sum(axis=0)
    fits = [
        (1 - float(fit @ sums), fit)
        for subset in _subsets(len(sums))
        if (fit := _least_squares(squares, sums, subset)) is not None
    ]
    least = min(error for error, _ in fits)
    return next(fit for error, fit in fits if error <= least * _AS_GOOD + _ROUNDING)


def _subsets(num_features: int) -> list[tuple[int, ...]]:
    """Fewer features first, and that of tokens before all others: it extrapolates best."""
    order = [1, 0, *range(2, num_features)]
    return [c for size in range(1, num_features + 1) for c in combinations(order, size)]


def _least_squares(
    squares: NDArray[np.float64], sums: NDArray[np.float64], subset: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """The solution with these features; None where it is not unique or has a negative."""
    matrix = squares[np.ix_(subset, subset)]
    if np.linalg.det(matrix) <= _SINGULAR * np.diag(matrix).prod():
        return None
    values = np.linalg.solve(matrix, sums[list(subset)])
    if (values < 0).any():
        return None
    found = np.zeros(len(sums))
    found[list(subset)] = values
    return found
