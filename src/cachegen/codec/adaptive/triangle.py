"""What a group's coefficients tell of those behind them: weights, learned from one chunk.

Each coefficient is predicted from the integers of those before it in its group, and only what the
prediction leaves is rounded. So the error stays that of rounding, whatever the weights are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.symbols import DEAD_ZONE

# In standard errors of a weight. Steps of 1.25 and 5 took 0.02 and 0.05 bits a value more, of 4.0,
# at the same KL (docs/LOG.md, 2026-11-29, tuned constants). The dead zone of 0.65 steps saved 0.03
# to 0.06 bits (docs/decisions/2026-11-29-uncalibrated.md).
_STEP = 2.5
_ROUNDING = 0.35
# Arbitrary: 64 to 127, the largest that is read, do; a weight of 250 standard errors is rare.
_LARGEST = 100
# Arbitrary: 16 to 256 do; only speed depends on them.
_STRIPE = 32
_COLUMNS = 128
# FORMAT.md, section 6: spreads are uint8, 64 + 8 log2.
_OCTAVE = 8
_SPREAD_BITS = 8
_UNIT_SPREAD = 64
# Of a coefficient's variance. Arbitrary: 10^-6 to 10^-4 do, above the rounding of float32 products.
_RIDGE = 1e-5
# The variance that rounding to whole steps adds, in squared steps.
_NOISE = 1 / 12


@dataclass(frozen=True, slots=True, eq=False)
class Triangle:
    """Weights of groups of one width, as they are stored.

    Attributes:
        step: of the weights, in units of the spreads.
        spreads: uint8 (groups, width): logarithms of what the predictions leave.
        weights: int32 (groups, width, width): of the source (last) for the target, below the
            diagonal.
    """

    step: float
    spreads: torch.Tensor
    weights: torch.Tensor

    def scaled(self) -> torch.Tensor:
        """The weights as they are applied to integers, float32 (groups, width, width)."""
        return scale(self.weights.to(torch.float32), self.spreads, self.step)


def weight_step(rows: int) -> float:
    """How coarse weights may be that are learned from so many rows: some standard errors."""
    return float(np.float32(_STEP / rows**0.5))


def scale(weights: torch.Tensor, spreads: torch.Tensor, step: float) -> torch.Tensor:
    """Float32 weights (..., targets, sources) from integers and spreads; overwritten."""
    levels = spreads.to(torch.float32)
    powers = ((levels[..., :, None] - levels[..., None, :]) / _OCTAVE).exp2_()
    return weights.mul_(step).mul_(powers)


def learn(scaled: torch.Tensor, step: float) -> Triangle:
    """The weights, in these steps, for float32 rows (groups, width, rows) in units of the step.

    Groups that float32 is too coarse for get none.
    """
    rows = max(1, scaled.shape[2])
    sizes = scaled.square().mean(dim=2).double().add_(_NOISE).sqrt_()
    unit = scaled / sizes[..., None].to(torch.float32)
    covariance = (unit @ unit.mT).div_(rows).double()
    covariance.diagonal(dim1=1, dim2=2).add_(_NOISE / sizes.square() + _RIDGE)
    root, failed = torch.linalg.cholesky_ex(covariance)
    root = torch.where(failed[:, None, None] == 0, root, torch.eye(root.shape[1]).double())
    root = root * sizes[..., None]
    left = root.diagonal(dim1=1, dim2=2)
    levels = (left.log2() * _OCTAVE + _UNIT_SPREAD).round_().clamp_(0, 255)
    exact = (root / left[:, None, :]).mul_(
        ((levels[:, None, :] - levels[:, :, None]) / _OCTAVE).exp2_()
    )
    whole = exact.div_(step).tril_(-1)
    whole = (whole.abs() + _ROUNDING).floor_().copysign_(whole).clamp_(-_LARGEST, _LARGEST)
    return Triangle(step, levels.to(torch.uint8), whole.to(torch.int32))


def quantise(scaled: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Integers, float32 (groups, width, rows), of rows in units of the step; these are overwritten.

    Args:
        scaled: float32 (groups, width, rows).
        weights: float32 (groups, width, width), targets first.
    """
    integers = torch.empty_like(scaled)
    width = scaled.shape[1]
    for first in range(0, width, _STRIPE):
        stop = min(first + _STRIPE, width)
        if first:
            scaled[:, first:stop].baddbmm_(
                weights[:, first:stop, :first], integers[:, :first], alpha=-1
            )
        for target in range(first, stop):
            left = scaled[:, target]
            whole = (left.abs() + DEAD_ZONE).floor_().copysign_(left)
            integers[:, target] = whole
            behind = weights[:, target + 1 : stop, target : target + 1]
            scaled[:, target + 1 : stop].addcmul_(behind, whole[:, None], value=-1)
    return integers


def restore(integers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The inverse of `quantise` for one group: float32 (rows, width) in units of the step.

    The last columns come first: they are made of those before them, which are then still integers.

    Args:
        integers: float32 (rows, width); overwritten and returned.
        weights: float32 (width, width), targets first.
    """
    width = integers.shape[1]
    if not width:
        return integers
    full = weights.mT + torch.eye(width)
    for first in reversed(range(0, width, _COLUMNS)):
        stop = min(first + _COLUMNS, width)
        integers[:, first:stop] = integers[:, :stop] @ full[:stop, first:stop]
    return integers


def bits_saved(scaled: torch.Tensor) -> float:
    """About how many bits weights save for rows (groups, width, rows), their own taken off."""
    found = learn(scaled, weight_step(scaled.shape[2]))
    before = scaled.square().mean(dim=2).add_(_NOISE).log2_().sum() / 2
    after = (found.spreads.double() - _UNIT_SPREAD).sum() / _OCTAVE
    width = scaled.shape[1]
    used = found.weights[:, *torch.tril_indices(width, width, -1)]
    stored = _SPREAD_BITS * found.spreads.numel() + _entropy_bits(used)
    saved = float(scaled.shape[2] * (before - after)) - stored
    return saved if math.isfinite(saved) else 0.0


def _entropy_bits(integers: torch.Tensor) -> float:
    counts = torch.bincount(integers.reshape(-1) + _LARGEST).double()
    counts = counts[counts > 0]
    return float((counts * (counts.sum() / counts).log2()).sum())
