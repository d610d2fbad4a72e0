"""How much a transform may learn: layer groups, coefficients and features within a size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cachegen.codec.transform.basis import GUARD_COLUMNS, PRECISE
from cachegen.kvcache import Geometry

# 512 features in place of these 208 save a fifth of the bits and cost half as much decoding again
# (docs/decisions/2026-11-21-transform-codec.md).
LAG_RANKS = (128, 40, 40)
# A bound: each matrix of a group takes 134 MB in float64, and solving grows with the cube.
_WIDEST_GROUP = 4096
# More coefficients of a wide group are not worth their bytes: with all of 3,840 SmolLM2 takes as
# many bits at equal KL as with 2,435 of them (docs/decisions/2026-11-29-token-weights.md).
_NARROW, _SHARE_OF_WIDE = 1024, 2 / 3
# Of a profile. Arbitrary: a fifth to a half does; it binds only in small profiles, where features
# and coefficients both become fewer.
_SHARE_OF_FEATURES = 1 / 3
# Of a number in float16.
_BYTES = 2
# n**3 each: an eigendecomposition with vectors (9), a Cholesky factor and its inverse (1), two
# products (2 each).
_SOLVING = 14


@dataclass(frozen=True, slots=True)
class TransformSizes:
    """A plan of what to learn.

    Attributes:
        groups: the planes of every layer group.
        lag_ranks: features of the token itself, of the one before, and so on.
        most_coefficients: in each group.
        profile_bytes: about what the profile will take.
        learning_bytes: about what the moments take while learning.
        flops_per_token: multiplications and additions of gathering the moments.
        solving_flops: the same of the eigenvectors and products that follow.
    """

    groups: tuple[tuple[int, ...], ...]
    lag_ranks: tuple[int, ...]
    most_coefficients: int
    profile_bytes: int
    learning_bytes: int
    flops_per_token: int
    solving_flops: int

    def describe(self) -> str:
        """One line for people."""
        layers = sorted({len(group) // 2 for group in self.groups}, reverse=True)
        return (
            f"{len(self.groups)} groups of {layers[0]} layers, {self.most_coefficients} "
            f"coefficients each, {sum(self.lag_ranks)} features: profile about "
            f"{self.profile_bytes / 1e6:.1f} MB, moments {self.learning_bytes / 1e6:.0f} MB, "
            f"{self.flops_per_token / 1e6:.0f} MFLOP per token of text, "
            f"{self.solving_flops / 1e9:.1f} GFLOP to solve"
        )


def describe_plans(
    geometry: Geometry,
    features_shape: tuple[int, int],
    *,
    max_profile_mb: float,
    windows: Sequence[int] = (),
) -> list[str]:
    """Lines for people: what each choice of layer groups would cost, the one that is taken first.

    Raises:
        ValueError: as `plan_groups`.
    """
    size = max_profile_mb
    taken = plan_groups(geometry, features_shape, max_profile_mb=size, windows=windows)
    layers = {geometry.num_layers >> bits for bits in range(geometry.num_layers.bit_length())}
    others = [
        _plan(geometry, features_shape, count, max_profile_mb=size, windows=windows)
        for count in sorted(layers, reverse=True)
    ]
    return [
        f"taken: {taken.describe()}",
        *(f"instead: {one.describe()}" for one in others if one != taken),
    ]


def plan_groups(
    geometry: Geometry,
    features_shape: tuple[int, int],
    *,
    max_profile_mb: float,
    windows: Sequence[int] = (),
) -> TransformSizes:
    """The widest groups, and as many coefficients of them, as the profile may hold.

    Args:
        geometry: of the caches.
        features_shape: (vocabulary, features) of what is known of single tokens.
        max_profile_mb: in millions of bytes.
        windows: of every layer, 0 where it has none; no group mixes layers of different ones, so
            that they can be stored apart. None are told apart without.

    Raises:
        ValueError: too little for one coefficient a group.
    """
    if not 0 < max_profile_mb < math.inf:
        raise ValueError(f"expected a profile of some megabytes, got {max_profile_mb}")
    if windows and len(windows) != geometry.num_layers:
        raise ValueError(
            f"expected the windows of {geometry.num_layers} layers, got {len(windows)}"
        )
    options = [
        _plan(geometry, features_shape, layers, max_profile_mb=max_profile_mb, windows=windows)
        for layers in range(geometry.num_layers, 0, -1)
    ]
    for option in options:
        if _widest(geometry, option) <= _WIDEST_GROUP or option is options[-1]:
            if option.most_coefficients < 1:
                raise ValueError(
                    f"{max_profile_mb} MB is too little for a profile of "
                    f"{geometry.values_per_token} values a token; allow at least "
                    f"{_least_mb(geometry):.2g} MB"
                )
            return option
    raise AssertionError


def _least_mb(geometry: Geometry) -> float:
    """Room for a coefficient of every group, after the features have had their share."""
    needed = 2 * _BYTES * (GUARD_COLUMNS + 1) * geometry.values_per_token
    return 1.05 * needed / (1 - _SHARE_OF_FEATURES) / 1e6


def _widest(geometry: Geometry, sizes: TransformSizes) -> int:
    return max(sum(geometry.planes[p].width for p in group) for group in sizes.groups)


def _plan(
    geometry: Geometry,
    features_shape: tuple[int, int],
    layers: int,
    *,
    max_profile_mb: float,
    windows: Sequence[int],
) -> TransformSizes:
    groups = tuple(
        tuple(range(2 * first, 2 * min(first + layers, stop)))
        for start, stop in _runs(geometry.num_layers, windows)
        for first in range(start, stop, layers)
    )
    widths = [sum(geometry.planes[p].width for p in group) for group in groups]
    vocabulary, known = features_shape
    room = _SHARE_OF_FEATURES * max_profile_mb * 1e6 / (vocabulary + _BYTES * sum(widths))
    scale = min(1.0, room / sum(LAG_RANKS))
    most_ranks = min(known, sum(widths))
    lag_ranks = tuple(min(int(scale * rank), most_ranks) for rank in LAG_RANKS) if known else ()
    fixed = sum(lag_ranks) * (vocabulary + _BYTES * sum(widths))
    left = max_profile_mb * 1e6 - fixed
    useful = max(min(max(widths), _NARROW), int(_SHARE_OF_WIDE * max(widths)))
    most = min(useful, _most_coefficients(left / sum(widths)))
    rows = known * len(lag_ranks)
    return TransformSizes(
        groups=groups,
        lag_ranks=lag_ranks,
        most_coefficients=most,
        profile_bytes=fixed + sum(_column_bytes(min(most, width)) * width for width in widths),
        learning_bytes=8 * (rows**2 + rows * sum(widths) + 2 * sum(w**2 for w in widths)),
        flops_per_token=2 * (rows**2 + rows * sum(widths) + 2 * sum(w**2 for w in widths)),
        solving_flops=_SOLVING * (rows**3 + sum(w**3 for w in widths)),
    )


def _column_bytes(coefficients: int) -> int:
    """What so many coefficients and the guards take of every column, there and back."""
    precise = min(coefficients, PRECISE)
    return _BYTES * (2 * precise + GUARD_COLUMNS) + 2 * (coefficients - precise)


def _most_coefficients(column_bytes: float) -> int:
    """The inverse of `_column_bytes`; below 1 where there is no room for any."""
    precise = int((column_bytes - _BYTES * GUARD_COLUMNS) / (2 * _BYTES))
    more = int((column_bytes - _column_bytes(PRECISE)) / 2)
    return precise if precise < PRECISE else PRECISE + more


def _runs(num_layers: int, windows: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring layers of equal windows; all layers where none are told."""
    changes = [i for i in range(1, len(windows)) if windows[i] != windows[i - 1]]
    return list(pairwise([0, *changes, num_layers]))
