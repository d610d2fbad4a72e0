"""Second moments of keys, values, their gradients and text features, gathered sample by sample.

Memory is bounded by the moments: per layer group columns**2 twice, features**2 and features x
columns once, all in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from cachegen.codec.calibration.kept import KeptRows, keep, places_kept
from cachegen.codec.calibration.sample import Sample
from cachegen.codec.matrix import coded_planes
from cachegen.codec.rope import RopeMap
from cachegen.kvcache import Geometry

# Of the mean energy of a token's gradients, added to each: far smaller ones then count for less.
_LEAST_LENGTH = 0.02
# Arbitrary: 2 to 16 do; four leave out three eighths of the products, infinitely many a half.
_PARTS = 4


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over tokens; `x` are a group's columns, `f` the features, `g` the gradients.

    Attributes:
        geometry: of all samples.
        num_samples: samples summed over.
        num_tokens: tokens summed over.
        num_following: continuation tokens of a sample, over which gradients are sums.
        f, ff: float64 (features,), (features, features).
        x, xx, fx, gg: per group float64 (columns,), (columns, columns), (features, columns),
            (columns, columns).
    """

    geometry: Geometry
    num_samples: int
    num_tokens: int
    num_following: int
    f: torch.Tensor
    ff: torch.Tensor
    x: list[torch.Tensor]
    xx: list[torch.Tensor]
    fx: list[torch.Tensor]
    gg: list[torch.Tensor]

    @property
    def mean_tokens(self) -> float:
        """Tokens of an average sample."""
        return self.num_tokens / self.num_samples


def blank_moments(
    geometry: Geometry,
    groups: Sequence[tuple[int, ...]],
    *,
    num_features: int,
    continuation_tokens: int,
) -> Moments:
    """Sums over no samples.

    Args:
        geometry: of all samples to come.
        groups: the planes of every layer group.
        num_features: over all lags.
        continuation_tokens: of every sample to come.
    """
    widths = [sum(geometry.planes[p].width for p in group) for group in groups]

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    return Moments(
        geometry=geometry,
        num_samples=0,
        num_tokens=0,
        num_following=continuation_tokens,
        f=zeros(num_features),
        ff=zeros(num_features, num_features),
        x=[zeros(width) for width in widths],
        xx=[zeros(width, width) for width in widths],
        fx=[zeros(num_features, width) for width in widths],
        gg=[zeros(width, width) for width in widths],
    )


def gather(
    samples: Iterable[Sample],
    into: Moments,
    *,
    rope: RopeMap,
    groups: Sequence[tuple[int, ...]],
    features: np.ndarray,
    lags: int,
    num_sinks: int,
    most_rows: int = 2**31,
    keep_rows: Callable[[KeptRows], None] = lambda kept: None,
) -> None:
    """Add samples to the sums.

    Gradients count by their direction: the few tokens whose gradients are hundreds of times as
    large as the others', right before what follows and where attention comes back to, would
    otherwise be all that the metric is learned from. What tokens weigh is learned apart.

    Args:
        samples: with gradients; each is added before the next is asked for.
        into: the sums so far, of the same groups and features.
        rope: rotations to take off keys, and off their gradients.
        groups: the planes of every layer group.
        features: float32 (vocabulary, features) of a single token.
        lags: the features of so many tokens, the token's own first, stand side by side.
        num_sinks: first tokens of every sample that are left out.
        most_rows: so many of a sample are kept at most.
        keep_rows: takes the rows of a sample that are kept, after it is added.

    Raises:
        ValueError: no sample at all, samples without gradients, of different geometries, or of
            numbers whose squares overflow.
    """
    table = torch.from_numpy(np.asarray(features, dtype=np.float32))
    for sample in samples:
        if sample.gradient is None:
            raise ValueError("expected samples with gradients, got one without")
        if not sample.kv.is_complete:
            raise ValueError("expected every layer to hold every token; capture windows whole")
        if sample.kv.geometry != into.geometry:
            raise ValueError(f"expected samples of {into.geometry}, got {sample.kv.geometry}")
        rows = lagged(table, sample.tokens, lags)[num_sinks:]
        kept = _add(into, sample, rope, groups, rows, num_sinks=num_sinks, most_rows=most_rows)
        if not _is_finite(into):
            raise ValueError(
                "expected keys, values and gradients whose squares float32 can sum, got larger "
                f"ones in sample {into.num_samples}; is this model sound in its dtype?"
            )
        keep_rows(kept)
    if not into.num_samples:
        raise ValueError("expected at least one sample, got none")


def lagged(table: torch.Tensor, tokens: np.ndarray, lags: int) -> torch.Tensor:
    """Features of each token, of the one before it and so on: float32 (tokens, lags * features)."""
    rows = torch.zeros(len(tokens), lags, table.shape[1])
    for lag in range(lags):
        rows[lag:, lag] = table[torch.from_numpy(tokens[: max(len(tokens) - lag, 0)])]
    return rows.flatten(1)


def _is_finite(sums: Moments) -> bool:
    """Whether no sum has overflowed.

    By Cauchy and Schwarz a sum of products off the diagonal, or in `fx`, is no larger than the
    larger of the two sums of squares that belong to it: to read them all would only cost time.
    """
    squares = (one.diagonal() for one in (*sums.xx, *sums.gg))
    return all(bool(torch.isfinite(one).all()) for one in (*sums.x, *squares))


def _add(
    into: Moments,
    sample: Sample,
    rope: RopeMap,
    groups: Sequence[tuple[int, ...]],
    rows: torch.Tensor,
    *,
    num_sinks: int,
    most_rows: int,
) -> KeptRows:
    assert sample.gradient is not None
    planes = dict(coded_planes(sample.kv, rope, most_sinks=num_sinks))
    slopes = dict(coded_planes(sample.gradient, rope, most_sinks=num_sinks))
    into.num_samples += 1
    into.num_tokens += len(rows)
    into.f += rows.sum(dim=0)
    into.ff += squares(rows)
    places = places_kept(len(sample.tokens), num_sinks, most_rows=most_rows)
    few = torch.from_numpy(places - num_sinks)
    lengths = _lengths(list(slopes.values()))
    kept_x, kept_g = [], []
    for index, group in enumerate(groups):
        x = torch.cat([planes[plane] for plane in group], dim=1)
        g = torch.cat([slopes[plane] for plane in group], dim=1)
        kept_x.append(x[few])
        kept_g.append(g[few])
        directions = g.div_(lengths[:, None])
        into.x[index] += x.sum(dim=0)
        into.xx[index] += squares(x)
        into.fx[index] += rows.T @ x
        into.gg[index] += squares(directions)
    return keep(sample.tokens, places, kept_x, kept_g)


def squares(rows: torch.Tensor) -> torch.Tensor:
    """rows^T rows, of float32 (rows, columns); what is below the diagonal is not computed twice."""
    columns = rows.shape[1]
    found = torch.empty(columns, columns)
    edges = [columns * part // _PARTS for part in range(_PARTS + 1)]
    for first, stop in pairwise(edges):
        torch.mm(rows[:, first:stop].T, rows[:, first:], out=found[first:stop, first:])
        found[stop:, first:stop] = found[first:stop, stop:].T
    return found


def _lengths(slopes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Float32 (rows,): how large the gradient of a token is, every plane heard equally loud."""
    found: list[torch.Tensor] = []
    for slope in slopes:
        energy = slope.square().sum(dim=1)
        mean = energy.mean()
        if mean > 0:
            found.append(energy / mean)
    if not found:
        return torch.ones(len(slopes[0]))
    return (torch.stack(found).mean(dim=0) + _LEAST_LENGTH).sqrt()
