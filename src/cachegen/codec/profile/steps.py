"""The steps that levels of a profile may have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cachegen.codec.levels import EncodingLevel
from cachegen.errors import BitstreamError

# Arbitrary: 10^3 to 10^9 do; at such a step every coefficient, in units of its spread, is zero.
_LARGEST_STEP = 1e6


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The finest and the coarsest step that a level of a profile may have."""

    finest: float
    coarsest: float


def step_limits(scales: np.ndarray | None) -> StepLimits:
    """Steps whose products with all scales are normal float32 numbers, as readers require.

    Args:
        scales: float32 (planes,), of which a step is a multiple; None in `transform`.
    """
    known = np.ones(1) if scales is None or not len(scales) else scales.astype(np.float64)
    tiny, huge = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    coarsest = min(_LARGEST_STEP, 0.999 * huge / float(known.max()))
    return StepLimits(finest=1.001 * tiny / min(1.0, float(known.min())), coarsest=coarsest)


def check_steps(levels: Iterable[EncodingLevel], scales: np.ndarray | None) -> None:
    """Refuse levels of a profile that cannot be coded with.

    Raises:
        BitstreamError: a step, or its product with a scale, that is no positive number, or a bound
            that is none.
    """
    for level in levels:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            steps = np.float32(level.step) * (np.ones(1) if scales is None else scales)
        fine = (np.isfinite(steps) & (steps > 0)).all() and level.step <= _LARGEST_STEP
        if not fine or not 0 <= level.bound < np.inf:
            raise BitstreamError(
                f"level {level.name}: {level.step} is no step, or {level.bound} no bound",
                field="levels",
            )
