"""Means and spreads of coefficients, gathered sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.matrix import Part
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
    samples: Iterable[KVCache], rows_of: Callable[[KVCache, Part], torch.Tensor]
) -> PlaneStatistics:
    """Accumulate over caches; `rows_of` gives a part's float32 (rows, coefficients).

    Raises:
        ValueError: no sample, or samples of different geometries.
    """
    geometry: Geometry | None = None
    for kv in samples:
        if geometry is None:
            geometry = kv.geometry
            count, first, second = np.zeros((3, geometry.values_per_token))
        if kv.geometry != geometry:
            raise ValueError(f"expected samples of one geometry {geometry}, got {kv.geometry}")
        for part in matrix.parts(geometry, matrix.tokens_held(kv)):
            rows = rows_of(kv, part).to(torch.float64)
            count[part.columns] += len(rows)
            first[part.columns] += rows.sum(dim=0).numpy()
            second[part.columns] += rows.square().sum(dim=0).numpy()
    if geometry is None:
        raise ValueError("expected at least one sample, got none")
    return _summarise(geometry, count, first, second)


def _summarise(
    geometry: Geometry, count: np.ndarray, first: np.ndarray, second: np.ndarray
) -> PlaneStatistics:
    seen = np.maximum(count, 1)
    means = (first / seen).astype(np.float32)
    variance = np.maximum(second / seen - (first / seen) ** 2, 0)
    offsets = matrix.plane_offsets(geometry)[:-1]
    widths = np.array([plane.width for plane in geometry.planes])
    rms = np.sqrt(np.add.reduceat(variance, offsets) / widths).astype(np.float32)
    return PlaneStatistics(geometry, means, np.where(np.isfinite(rms) & (rms > 1e-30), rms, 1))
