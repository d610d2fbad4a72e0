"""Cost models of prefill and decoding, fitted to measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

# By hand, 150 prefill fits of 12 samples, a tenth of them outliers: errors of 6.8%, 4.2%, 3.7% and
# 3.7% after 1, 2, 4 and 6 rounds; alike with a usual error of 0.01 to 0.1, and `_AS_GOOD` 1 to 1.1.
_ROUNDS = 4
_USUAL = 0.03
_AS_GOOD = 1.1
# Squared relative error: fits within 3e-5 of the samples are exact, far above float64's rounding.
_ROUNDING = 1e-9
# Squared sine between columns of features: sizes equal to 1 in 10,000 cannot tell terms apart.
_SINGULAR = 1e-8


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """Seconds to compute the cache of n tokens after p earlier ones: a + b n + c n (2p + n).

    Attributes:
        a_s: seconds per call.
        b_s: seconds per token.
        c_s: half of the seconds per pair of a token and one it attends to.
    """

    a_s: float
    b_s: float
    c_s: float = 0.0

    def seconds(self, num_tokens: int, *, past: int = 0) -> float:
        """The estimated seconds; 0 for no tokens."""
        if not num_tokens:
            return 0.0
        return self.a_s + self.b_s * num_tokens + self.c_s * num_tokens * (2 * past + num_tokens)


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds to decode a chunk of n tokens into the cache: a + b n.

    Attributes:
        a_s: seconds per chunk.
        b_s: seconds per token.
    """

    a_s: float = 0.0
    b_s: float = 0.0

    def seconds(self, num_tokens: int) -> float:
        """The estimated seconds."""
        return self.a_s + self.b_s * num_tokens


@dataclass(frozen=True, slots=True)
class Costs:
    """What a load costs besides transfers.

    Attributes:
        prefill: None when unknown: then nothing is recomputed by choice.
        decode: cost by level; a level without an entry is assumed to cost nothing.
        request_s: seconds from a request to its first byte.
    """

    prefill: PrefillCost | None = None
    decode: Mapping[str, DecodeCost] = field(default_factory=dict)
    request_s: float = 0.0

    def decode_s(self, level: str, num_tokens: int) -> float:
        """Seconds to decode a chunk of so many tokens at a level."""
        cost = self.decode.get(level)
        return 0.0 if cost is None else cost.seconds(num_tokens)


def fit_prefill(samples: Sequence[tuple[int, int, float]]) -> PrefillCost | None:
    """Fit the cost to samples (tokens, tokens before them, seconds); None without samples."""
    samples = [sample for sample in samples if sample[0] > 0 and sample[2] > 0]
    if not samples:
        return None
    features = [(1.0, n, n * (2 * past + n)) for n, past, _ in samples]
    a_s, b_s, c_s = _fit(features, [seconds for *_, seconds in samples])
    return PrefillCost(a_s, b_s, c_s)


def fit_decode(samples: Sequence[tuple[int, float]]) -> DecodeCost:
    """Fit the cost to samples (tokens, seconds); a cost of 0 without samples."""
    samples = [sample for sample in samples if sample[0] > 0 and sample[1] > 0]
    if not samples:
        return DecodeCost()
    a_s, b_s = _fit([(1.0, n) for n, _ in samples], [seconds for _, seconds in samples])
    return DecodeCost(a_s, b_s)


def _fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Non-negative coefficients of least relative error; outliers count little.

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
    """Not NumPy's: that imports a module on its first call, which slows the first load down and
    hangs in a child that is forked meanwhile."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] + ordered[~middle]) / 2


def _non_negative(
    relative: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares of `relative @ found = 1` with the best non-negative subset.

    Of subsets about as good, the first wins.
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
    """Fewer features first, and the one of tokens before the others: it extrapolates best."""
    order = [1, 0, *range(2, num_features)]
    return [c for size in range(1, num_features + 1) for c in combinations(order, size)]


def _least_squares(
    squares: NDArray[np.float64], sums: NDArray[np.float64], subset: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """The solution with these features; None if it is not unique or not non-negative."""
    matrix = squares[np.ix_(subset, subset)]
    if np.linalg.det(matrix) <= _SINGULAR * np.diag(matrix).prod():
        return None
    values = np.linalg.solve(matrix, sums[list(subset)])
    if (values < 0).any():
        return None
    found = np.zeros(len(sums))
    found[list(subset)] = values
    return found
