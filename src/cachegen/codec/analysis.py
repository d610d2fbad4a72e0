"""From planes to integers: the first half of preset `transform`, which measures what it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec.basis import (
    LARGEST_COEFFICIENT,
    Transform,
    fill_features,
    residual,
)
from cachegen.codec.fixed import pack_planes
from cachegen.codec.rope import RopeMap
from cachegen.codec.rows import coded_planes, sinks_among
from cachegen.codec.symbols import Unrepresentable, quantise
from cachegen.kvcache import KVCache

ROUNDING = 0.46
# Nats per coefficient and row that mean squares of few rows show by chance, heavy tails included.
_CHANCE = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Analysed:
    """A cache before quantisation.

    Attributes:
        coefficients: per group float32 (rows, coefficients or more), in units.
        features: float32 (rows, features), whole numbers.
        sinks: the arrays `scales` and `codes` of the sinks.
    """

    coefficients: tuple[torch.Tensor, ...]
    features: torch.Tensor
    sinks: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """Coefficients as integers.

    Attributes:
        integers: per group int32 (rows, active coefficients).
        distortion: what rounding costs, nats for each token that follows, to second order.
    """

    integers: tuple[np.ndarray, ...]
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
    coefficients = tuple(residual(group, planes, features) for group in transform.groups)
    return Analysed(coefficients, features, pack_planes([p[:, :skipped] for p in kv.planes()]))


def quantise_coefficients(
    analysed: Analysed, transform: Transform, *, step: float, num_active: Sequence[int]
) -> Quantised:
    """Round to whole steps, the leading coefficients of each group, and measure what is lost.

    Raises:
        Unrepresentable: NaN or infinities.
    """
    integers, lost = [], 0.0
    for coefficients, count in zip(analysed.coefficients, num_active, strict=True):
        steps = coefficients[:, :count] / step
        whole = quantise(steps, rounding=ROUNDING)
        np.clip(whole, -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT, out=whole)
        lost += _energy(steps.sub_(torch.from_numpy(whole))) * step**2
        lost += _energy(coefficients[:, count:])
        integers.append(whole)
    if not np.isfinite(lost):
        raise Unrepresentable
    return Quantised(tuple(integers), transform.unit**2 * lost / max(len(analysed.features), 1))


def distance(one: Analysed, other: Analysed, transform: Transform) -> float:
    """What it costs to have one cache in place of another, nats per token, to second order."""
    pairs = zip(one.coefficients, other.coefficients, strict=True)
    lost = sum(_energy(left - right) for left, right in pairs)
    return transform.unit**2 * lost / max(len(one.features), 1)


def strangeness(analysed: Analysed, transform: Transform, *, num_active: Sequence[int]) -> float:
    """How far a chunk's coefficients are from those the transform has learned of.

    The Kullback-Leibler divergence, nats per coefficient, between normal distributions with the
    mean squares of this chunk and with those learned; what so few rows show by chance is taken off.
    """
    found, count = 0.0, max(sum(num_active), 1)
    if not len(analysed.features):
        return 0.0
    for coefficients, group, active in zip(
        analysed.coefficients, transform.groups, num_active, strict=True
    ):
        own = coefficients[:, :active].square().mean(dim=0, dtype=torch.float64)
        learned = torch.from_numpy(group.variances[:active]).double()
        ratio = own.clamp_min(1e-12) / learned.clamp_min(1e-12)
        found += float((ratio - 1 - ratio.log()).sum()) / 2
    return max(found / count - _CHANCE / len(analysed.features), 0.0)


def _energy(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
