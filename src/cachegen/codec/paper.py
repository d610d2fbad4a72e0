"""Preset `paper`: the encoder that the CacheGen paper describes (SIGCOMM'24, section 5).

Groups of ten tokens: the first is the anchor, coded by itself at eight bits; the others are
deltas from it. Every token's plane is scaled by its largest magnitude, deltas are divided by a
bin that grows with depth, and every (plane, channel) has distributions of its own, anchors and
deltas apart. What the description leaves open is decided in FORMAT.md, section 6.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.matrix import Part
from cachegen.codec.model import CodingModel, take
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import (
    Unrepresentable,
    clipped_symbols,
    quantise,
    to_integers,
    to_symbols,
)
from cachegen.codec.tables import histograms, table_frequencies
from cachegen.codec.vectors import LIMIT, bfloat16_above, from_bits, to_bits
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

GROUP_TOKENS = 10
BINS = (0.5, 1.0, 1.5)


def bins(geometry: Geometry, multiplier: float) -> np.ndarray:
    """Bin of every plane, float32 (planes,): one size for each third of the layers."""
    layers = np.arange(len(geometry.planes)) // 2
    third = np.minimum(2, 3 * layers // geometry.num_layers)
    return (np.array(BINS)[third] * multiplier).astype(np.float32)


def encode(
    kv: KVCache, model: CodingModel, *, threads: int
) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
    """Two blocks for each part, anchors and deltas, and the scales.

    Raises:
        Unrepresentable: the cache holds NaN or infinities.
    """
    blocks, scales = [], []
    for part in matrix.parts(kv.geometry, matrix.tokens_held(kv)):
        part_scales, *pair = _quantise_part(kv, part, model.steps)
        scales.append(to_bits(part_scales))
        for integers, ids in zip(pair, _table_ids(model, part), strict=True):
            symbols, escapes = to_symbols(integers, ids, model.frequencies)
            blocks.append(encode_block(symbols, escapes, ids, model.frequencies, threads=threads))
    return tuple(blocks), {"scales": np.concatenate(scales)}


def decode(chunk: EncodedChunk, model: CodingModel, *, threads: int) -> KVCache:
    """The cache of a chunk.

    Raises:
        BitstreamError: blocks that do not fit the geometry or do not decode.
    """
    layout = matrix.parts(chunk.geometry, chunk.tokens_held)
    if len(chunk.blocks) != 2 * len(layout):
        raise BitstreamError(
            f"expected {2 * len(layout)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    counts = [part.num_rows * len(part.planes) for part in layout]
    all_scales = from_bits(take(chunk.arrays, "scales", count=sum(counts))).split(counts)
    matrices = []
    for index, (part, scales) in enumerate(zip(layout, all_scales, strict=True)):
        pair = chunk.blocks[2 * index : 2 * index + 2]
        anchors, deltas = _decode_pair(pair, part, model, threads=threads)
        rows = _merge(anchors, deltas, part, chunk.geometry, model.steps)
        matrices.append(_scale(rows, scales.view(part.num_rows, -1), chunk.geometry, part))
    return matrix.assemble(
        matrices, chunk.geometry, layout, start=chunk.start, num_tokens=chunk.num_tokens
    )


def roundtrip(kv: KVCache, model: CodingModel) -> KVCache:
    """What `decode` would make of `encode`'s output, without coding anything."""
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    matrices = []
    for part in layout:
        scales, *pair = _quantise_part(kv, part, model.steps)
        anchors, deltas = (torch.from_numpy(whole.astype(np.float32)) for whole in pair)
        rows = _merge(anchors, deltas, part, kv.geometry, model.steps)
        matrices.append(_scale(rows, scales, kv.geometry, part))
    return matrix.assemble(
        matrices, kv.geometry, layout, start=kv.start, num_tokens=kv.num_tokens
    )


def fit(samples: Iterable[KVCache], geometry: Geometry, step: float, *, margin: int) -> CodingModel:
    """A table for every (plane, channel), anchors and deltas apart, from caches of a geometry.

    Raises:
        Unrepresentable: a cache holds NaN or infinities.
    """
    steps = bins(geometry, step)
    counts = np.zeros((2, geometry.values_per_token, 256), dtype=np.int64)
    for kv in samples:
        for part in matrix.parts(geometry, matrix.tokens_held(kv)):
            _, *pair = _quantise_part(kv, part, steps)
            for kind, integers in enumerate(pair):
                counts[kind, part.columns] += histograms(clipped_symbols(integers))
    tables = table_frequencies(counts.reshape(-1, 256), margin=margin, escape=True)
    return CodingModel(
        steps, np.arange(len(tables)), tables, None, RopeMap.none(len(geometry.planes))
    )


def _table_ids(model: CodingModel, part: Part) -> tuple[np.ndarray, np.ndarray]:
    anchors, deltas = np.split(model.table_ids, 2)
    return anchors[part.columns], deltas[part.columns]


def _quantise_part(
    kv: KVCache, part: Part, steps: np.ndarray
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Scales (rows, planes), anchors and deltas as int32 (rows, coefficients)."""
    rows = matrix.gather(kv, part)
    if not bool(torch.isfinite(rows).all()):
        raise Unrepresentable
    scales = torch.empty((part.num_rows, len(part.planes)))
    for index, view in enumerate(matrix.split(rows, kv.geometry, part)):
        flat = view.flatten(1)
        scales[:, index] = bfloat16_above(flat.abs().amax(dim=1))
        view.div_(torch.where(scales[:, index] > 0, scales[:, index], 1.0)[:, None, None])
    is_delta = _is_delta(part.num_rows)
    anchors = quantise(rows[~is_delta] * LIMIT, rounding=0.5)
    decoded = torch.from_numpy(anchors.astype(np.float32)) / LIMIT
    reference = decoded.repeat_interleave(GROUP_TOKENS, dim=0)[: part.num_rows]
    deltas = (rows - reference)[is_delta] / _widths(steps, kv.geometry, part)
    return scales, anchors, quantise(deltas, rounding=0.5)


def _decode_pair(
    pair: tuple[Block, ...], part: Part, model: CodingModel, *, threads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    num_anchors = -(-part.num_rows // GROUP_TOKENS)
    heights = (num_anchors, part.num_rows - num_anchors)
    found = []
    for block, ids, height in zip(pair, _table_ids(model, part), heights, strict=True):
        block.expect(height, len(part.columns))
        symbols = decode_block(block, ids, model.frequencies, threads=threads)
        found.append(to_integers(symbols, block.escapes))
    return found[0], found[1]


def _merge(
    anchors: torch.Tensor, deltas: torch.Tensor, part: Part, geometry: Geometry, steps: np.ndarray
) -> torch.Tensor:
    decoded = anchors / LIMIT
    rows = decoded.repeat_interleave(GROUP_TOKENS, dim=0)[: part.num_rows]
    rows[_is_delta(part.num_rows)] += deltas * _widths(steps, geometry, part)
    return rows


def _scale(
    rows: torch.Tensor, scales: torch.Tensor, geometry: Geometry, part: Part
) -> torch.Tensor:
    for index, view in enumerate(matrix.split(rows, geometry, part)):
        view.mul_(scales[:, index, None, None])
    return rows


def _is_delta(num_rows: int) -> torch.Tensor:
    return torch.arange(num_rows) % GROUP_TOKENS != 0


def _widths(steps: np.ndarray, geometry: Geometry, part: Part) -> torch.Tensor:
    return torch.from_numpy(steps[matrix.plane_of_coefficient(geometry)[part.columns]])
