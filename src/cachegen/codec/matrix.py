"""Planes as matrices: tokens down, the channels of all planes across.

Layers that hold equally many tokens share a matrix; a complete cache is one matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cachegen.kvcache import Geometry, KVCache


@dataclass(frozen=True, slots=True)
class Part:
    """Planes that hold equally many tokens, and where they stand among all coefficients.

    Attributes:
        planes: indices of the planes.
        num_rows: tokens each of them holds.
        columns: int64 (coefficients of the part,): indices among the geometry's coefficients.
    """

    planes: tuple[int, ...]
    num_rows: int
    columns: np.ndarray


def plane_offsets(geometry: Geometry) -> np.ndarray:
    """First coefficient of every plane, and their total: int64 (planes + 1,)."""
    widths = [plane.width for plane in geometry.planes]
    return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)


def plane_of_coefficient(geometry: Geometry) -> np.ndarray:
    """The plane that each coefficient belongs to: int64 (coefficients,)."""
    widths = [plane.width for plane in geometry.planes]
    return np.repeat(np.arange(len(widths)), widths)


def parts(geometry: Geometry, tokens_held: tuple[int, ...]) -> tuple[Part, ...]:
    """Group the planes by the number of tokens their layers hold, in order of appearance."""
    offsets = plane_offsets(geometry)
    found = []
    for held in dict.fromkeys(tokens_held):
        planes = tuple(p for p in range(len(geometry.planes)) if tokens_held[p // 2] == held)
        columns = np.concatenate([np.arange(offsets[p], offsets[p + 1]) for p in planes])
        found.append(Part(planes, held, columns))
    return tuple(found)


def tokens_held(kv: KVCache) -> tuple[int, ...]:
    """Per layer, how many of the last tokens it holds."""
    return tuple(key.shape[1] for key in kv.keys)


def gather(kv: KVCache, part: Part) -> torch.Tensor:
    """The part's planes as float32 (rows, coefficients), on the CPU."""
    planes = list(kv.planes())
    rows = torch.empty((part.num_rows, len(part.columns)), dtype=torch.float32)
    for index, view in zip(part.planes, split(rows, kv.geometry, part), strict=True):
        view.copy_(planes[index].transpose(0, 1))
    return rows


def split(rows: torch.Tensor, geometry: Geometry, part: Part) -> list[torch.Tensor]:
    """Views of a part's matrix, one for each of its planes: (rows, heads, dim)."""
    shapes = [geometry.planes[index] for index in part.planes]
    pieces = rows.split([shape.width for shape in shapes], dim=1)
    return [
        piece.unflatten(1, (shape.heads, shape.dim))
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


def assemble(
    matrices: list[torch.Tensor],
    geometry: Geometry,
    layout: tuple[Part, ...],
    *,
    start: int,
    num_tokens: int,
) -> KVCache:
    """The cache whose parts are these float32 matrices, rounded once to the cache's dtype."""
    planes: dict[int, torch.Tensor] = {}
    for rows, part in zip(matrices, layout, strict=True):
        for index, view in zip(part.planes, split(rows, geometry, part), strict=True):
            planes[index] = _to_plane(view, geometry.dtype)
    keys = tuple(planes[2 * layer] for layer in range(geometry.num_layers))
    values = tuple(planes[2 * layer + 1] for layer in range(geometry.num_layers))
    return KVCache(keys, values, num_tokens, start)


def to_dtype(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float32 to the cache's dtype, to nearest even; float16 saturates."""
    if dtype == torch.float16:
        values = values.clamp(-65504.0, 65504.0)
    return values.to(dtype)


def _to_plane(view: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return to_dtype(view.transpose(0, 1), dtype).contiguous()
