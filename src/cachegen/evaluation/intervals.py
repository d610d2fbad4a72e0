"""How sure a figure over some cases is: bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# scipy's default. An interval's ends then vary by 1 to 2% of its width from seed to seed.
_RESAMPLES = 9_999
# Resamples at a time: bounds memory, 8 bytes a case of each.
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the figure lies in 95 of 100 draws of as many cases."""

    low: float
    high: float


def mean_interval(values: Sequence[float], *, seed: int) -> Interval | None:
    """Of a mean over cases; none of fewer than two.

    Args:
        values: one a case.
        seed: of the resampling.
    """
    return _interval((values,), _mean, seed=seed)


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, seed: int
) -> Interval | None:
    """Of a sum over cases divided by another, as of bytes and values; none of fewer than two.

    Args:
        numerators: one a case.
        denominators: one a case, above 0.
        seed: of the resampling.
    """
    if len(numerators) != len(denominators):
        raise ValueError(
            f"expected as many numerators as denominators, got {len(numerators)} and "
            f"{len(denominators)}"
        )
    return _interval((numerators, denominators), _ratio, seed=seed)


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(values.mean(axis=axis))


def _ratio(numerators: np.ndarray, denominators: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(numerators.sum(axis=axis) / denominators.sum(axis=axis))


def _interval(
    data: tuple[Sequence[float], ...], statistic: Callable[..., np.ndarray], *, seed: int
) -> Interval | None:
    """Bias-corrected and accelerated (BCa), which cases that are all alike have none of.

    Theirs is of percentiles, as wide as they are apart.
    """
    arrays = tuple(np.asarray(values, dtype=np.float64) for values in data)
    if len(arrays[0]) < 2:
        return None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                arrays,
                statistic,
                n_resamples=_RESAMPLES,
                batch=_BATCH,
                paired=True,
                confidence_level=CONFIDENCE,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            break
    return Interval(float(found.low), float(found.high))
