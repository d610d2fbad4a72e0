"""Preset `paper`: the encoder that the CacheGen paper describes (SIGCOMM'24, section 5).

Groups of ten tokens: the first is the anchor, coded by itself at eight bits; the others are
deltas from it. Every token's plane is scaled by its largest magnitude, deltas are divided by a
bin that grows with depth, and every (plane, channel) has distributions of its own, anchors and
deltas apart. What the description leaves open is decided in FORMAT.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk, take
from cachegen.codec.matrix import Part, Planes
from cachegen.codec.model import CodingModel
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import (
    Unrepresentable,
    clipped_symbols,
    quantise,
    to_integers,
    to_symbols,
)
from cachegen.codec.tables import histograms, table_frequencies
from cachegen.codec.vectors import (
    LIMIT,
    bfloat16_above,
    check_scales,
    from_bits,
    largest,
    to_bits,
)
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

# As the paper has them, bins for the first, second and last third of the layers.
GROUP_TOKENS = 10
BINS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True, eq=False)
class _Quantised:
    """A plane as integers.

    Attributes:
        scales: float32 (tokens,), exact in bfloat16.
        anchors: int32 (groups, width).
        deltas: int32 (tokens - groups, width).
    """

    scales: torch.Tensor
    anchors: np.ndarray
    deltas: np.ndarray


def bins(geometry: Geometry, multiplier: float) -> np.ndarray:
    """Bin of every plane, float32 (planes,): one size for each third of the layers."""
    layers = np.arange(len(geometry.planes)) // 2
    third = np.minimum(2, 3 * layers // geometry.num_layers)
    return np.array(BINS, dtype=np.float32)[third] * np.float32(multiplier)


def encode(
    kv: KVCache, model: CodingModel, *, threads: int
) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
    """Two blocks for each part, anchors and deltas, and the scales.

    Raises:
        Unrepresentable: the cache holds NaN or infinities.
    """
    blocks = []
    quantised = _quantise(kv, model.steps)
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    for part in layout:
        whole = (
            np.concatenate([quantised[p].anchors for p in part.planes], axis=1),
            np.concatenate([quantised[p].deltas for p in part.planes], axis=1),
        )
        for integers, ids in zip(whole, _table_ids(model, part), strict=True):
            symbols, escapes = to_symbols(integers, ids, model.frequencies)
            blocks.append(encode_block(symbols, escapes, ids, model.frequencies, threads=threads))
    scales = [to_bits(quantised[p].scales) for part in layout for p in part.planes]
    return tuple(blocks), {"scales": np.concatenate(scales)}


def decode(chunk: EncodedChunk, planes: Planes, model: CodingModel, *, threads: int) -> None:
    """Fill these planes with the cache of a chunk.

    Raises:
        BitstreamError: blocks that do not fit the geometry or do not decode.
    """
    layout = matrix.parts(chunk.geometry, chunk.tokens_held)
    if len(chunk.blocks) != 2 * len(layout):
        raise BitstreamError(
            f"expected {2 * len(layout)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    scales = take(
        chunk.arrays, "scales", count=sum(part.num_rows * len(part.planes) for part in layout)
    )
    check_scales(scales)
    token = 0
    for part, *pair in zip(layout, chunk.blocks[::2], chunk.blocks[1::2], strict=True):
        decoded = _decode_pair(pair, part, chunk.geometry, model, threads=threads)
        for plane, (anchors, deltas) in zip(part.planes, decoded, strict=True):
            own = from_bits(scales[token : token + part.num_rows])
            token += part.num_rows
            _fill_plane(planes[plane], anchors, deltas, own, float(model.steps[plane]))
        del decoded  # before the next are made


def roundtrip(kv: KVCache, model: CodingModel) -> KVCache:
    """What `decode` would make of `encode`'s output, without coding anything."""
    planes = matrix.empty_planes(kv.geometry, matrix.tokens_held(kv))
    for index, found in _quantise(kv, model.steps).items():
        _fill_plane(
            planes[index],
            torch.from_numpy(found.anchors).to(torch.float32),
            torch.from_numpy(found.deltas).to(torch.float32),
            found.scales,
            float(model.steps[index]),
        )
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), kv.num_tokens, kv.start)


def fit(samples: Iterable[KVCache], geometry: Geometry, step: float, *, margin: int) -> CodingModel:
    """A table for every (plane, channel), anchors and deltas apart, from caches of a geometry.

    Raises:
        Unrepresentable: a cache holds NaN or infinities.
    """
    steps = bins(geometry, step)
    counts = np.zeros((2, geometry.values_per_token, 256), dtype=np.int64)
    offsets = matrix.plane_offsets(geometry)
    for kv in samples:
        for plane, found in _quantise(kv, steps).items():
            own = slice(offsets[plane], offsets[plane + 1])
            counts[0, own] += histograms(clipped_symbols(found.anchors))
            counts[1, own] += histograms(clipped_symbols(found.deltas))
    tables = table_frequencies(counts.reshape(-1, 256), margin=margin, escape=True)
    return CodingModel(
        steps, np.arange(len(tables)), tables, None, RopeMap.none(len(geometry.planes))
    )


def _table_ids(model: CodingModel, part: Part) -> tuple[np.ndarray, np.ndarray]:
    anchors, deltas = np.split(model.table_ids, 2)
    return anchors[part.columns], deltas[part.columns]


def _quantise(kv: KVCache, steps: np.ndarray) -> dict[int, _Quantised]:
    return {
        plane: _quantise_plane(matrix.to_rows(tensor).flatten(1), float(steps[plane]))
        for plane, tensor in enumerate(kv.planes())
    }


def _quantise_plane(rows: torch.Tensor, bin_width: float) -> _Quantised:
    scales = bfloat16_above(largest(rows))
    if not bool(torch.isfinite(scales).all()):
        raise Unrepresentable
    rows = rows / torch.where(scales > 0, scales, 1.0)
    is_delta = _is_delta(len(rows))
    anchors = quantise(rows[~is_delta] * LIMIT, rounding=0.5)
    reference = _repeated(torch.from_numpy(anchors).to(torch.float32), len(rows))
    deltas = quantise((rows - reference)[is_delta] / bin_width, rounding=0.5)
    return _Quantised(scales.flatten(), anchors, deltas)


def _decode_pair(
    pair: list[Block], part: Part, geometry: Geometry, model: CodingModel, *, threads: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Anchors and deltas of every plane of a part, float32 (rows, width)."""
    num_anchors = -(-part.num_rows // GROUP_TOKENS)
    heights = (num_anchors, part.num_rows - num_anchors)
    found = []
    for block, ids, height in zip(pair, _table_ids(model, part), heights, strict=True):
        block.expect(height, len(part.columns))
        decoded = decode_block(block, ids, model.frequencies, threads=threads)
        found.append(to_integers(decoded, block.escapes, matrix.widths(geometry, part)))
    return zip(*found, strict=True)


def _fill_plane(
    plane: torch.Tensor,
    anchors: torch.Tensor,
    deltas: torch.Tensor,
    scales: torch.Tensor,
    step: float,
) -> None:
    """Fill a plane (heads, tokens, dim) from its integers (rows, width) and scales (tokens,).

    Anchors and deltas are overwritten.
    """
    heads, tokens, dim = plane.shape
    rows = _repeated(anchors, tokens)
    rows[_is_delta(tokens)] += deltas.mul_(step)
    rows.mul_(scales[:, None])
    matrix.fill_plane(plane, rows.view(tokens, heads, dim))


def _repeated(anchors: torch.Tensor, num_rows: int) -> torch.Tensor:
    """What each row is a delta from: its group's anchor as the decoder knows it."""
    return (anchors / LIMIT).repeat_interleave(GROUP_TOKENS, dim=0)[:num_rows]


def _is_delta(num_rows: int) -> torch.Tensor:
    return torch.arange(num_rows) % GROUP_TOKENS != 0
