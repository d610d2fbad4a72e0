"""Means and spreads of coefficients, gathered sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.symbols import Unrepresentable
from cachegen.kvcache import Geometry, KVCache


@dataclass(frozen=True, slots=True, eq=False)
class PlaneStatistics:
    """What a set of caches has in common.

    Attributes:
        geometry: planes and dtype of the caches.
        means: float32 (coefficients,).
        rms: float32 (planes,): root mean square of a plane's values around their means; 1 where
            a plane never changes.
    """

    geometry: Geometry
    means: np.ndarray
    rms: np.ndarray


def measure(
    samples: Iterable[KVCache], rows_of: Callable[[KVCache], Iterator[tuple[int, torch.Tensor]]]
) -> PlaneStatistics:
    """Accumulate over caches.

    Args:
        samples: the caches.
        rows_of: gives every plane of a cache with its float32 rows (tokens, width).

    Raises:
        ValueError: no sample, or samples of different geometries.
        Unrepresentable: a value is NaN or infinite.
    """
    geometry: Geometry | None = None
    for kv in samples:
        if geometry is None:
            geometry = kv.geometry
            offsets = matrix.plane_offsets(geometry)
            count, first, second = np.zeros((3, geometry.values_per_token))
        if kv.geometry != geometry:
            raise ValueError(f"expected samples of one geometry {geometry}, got {kv.geometry}")
        for plane, rows in rows_of(kv):
            own = slice(offsets[plane], offsets[plane + 1])
            wide = rows.to(torch.float64)
            count[own] += len(rows)
            first[own] += wide.sum(dim=0).numpy()
            second[own] += wide.square_().sum(dim=0).numpy()
    if geometry is None:
        raise ValueError("expected at least one sample, got none")
    if not np.isfinite(first).all():
        raise Unrepresentable
    return _summarise(geometry, count, first, second)


def _summarise(
    geometry: Geometry, count: np.ndarray, first: np.ndarray, second: np.ndarray
) -> PlaneStatistics:
    seen = np.maximum(count, 1)
    variance = np.maximum(second / seen - (first / seen) ** 2, 0)
    widths = [plane.width for plane in geometry.planes]
    plane_of = np.repeat(np.arange(len(widths)), widths)
    sums = np.bincount(plane_of, weights=variance, minlength=len(widths))
    rms = np.sqrt(sums / np.maximum(widths, 1)).astype(np.float32)
    means = (first / seen).astype(np.float32)
    return PlaneStatistics(geometry, means, np.where(rms > 1e-30, rms, np.float32(1)))
