"""Codec `adaptive`: as `plain` without a profile, with coefficients predicted from one another.

    keys, values -> un-rotate -> subtract means -> divide by steps -> predict, round -> symbols

What predicts is learned from the chunk and stored in it, where that pays. Dimensions of keys that
turn slowly get finer steps: in them queries and keys meet at any distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from cachegen.codec import matrix, plain
from cachegen.codec.adaptive.predict import best_width, group_widths, predict, regroup
from cachegen.codec.adaptive.stored_weights import WIDEST, Weights, pack_weights, read_weights
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk, take
from cachegen.codec.fixed import pack_planes
from cachegen.codec.matrix import Part, Planes, coded_planes, num_sinks
from cachegen.codec.model import CodingModel, model_from_arrays, model_to_arrays
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import clipped_symbols, to_integers, to_symbols
from cachegen.codec.tables import cluster, histograms, table_frequencies
from cachegen.kvcache import Geometry, KVCache

# FORMAT.md, section 6: steps are finer by quarters of an octave.
QUARTERS = 4
# Dimensions that turn by 2^-6 radians a token or more have the plane's step, those half as fast one
# finer by a quarter of an octave, up to three octaves: fitted to the Fisher information of two
# models, and values likewise (docs/decisions/2026-11-29-uncalibrated.md). Keys that do not turn get
# the middle of what others get, so at most an octave and a half from what they would need if they
# were like these: no model at hand has learned to do without rotations.
_FAST, _FINEST = -6.0, 12
_UNTURNED_KEYS, _VALUES = 6, 3
# As in `tables`, for all levels of a profile: more save little.
_MOST_TABLES = 64
# A table takes some 100 bytes, one percent of 32,768 symbols of 3 bits.
_SYMBOLS_PER_TABLE = 32_768


def encode(
    kv: KVCache, rope: RopeMap, step: float, *, threads: int
) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
    """A block for each part, then one of the weights where there are any; and all arrays.

    Raises:
        Unrepresentable: the cache holds NaN, infinities or values far beyond the steps.
    """
    model = plain.blank_model(plain.statistics([kv], rope), rope, step)
    finer = fineness(kv.geometry, rope)
    steps = coefficient_steps(model.steps, finer, kv.geometry)
    width = best_width(kv, lambda layer: _layer(kv, model, steps, layer), most=WIDEST)
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    scaled = _scaled_planes(kv, model, steps)
    found = [
        predict(islice(scaled, len(part.planes)), len(part.columns), _width(part, width, kv))
        for part in layout
    ]
    ids, frequencies = _tables(layout, [part.integers for part in found], len(steps))
    coded = [(one.integers, ids[part.columns]) for part, one in zip(layout, found, strict=True)]
    arrays = {"fineness": finer} | _sinks(kv, layout)
    if width:
        weights, own = pack_weights(layout, found, len(steps))
        coded.append((weights, np.full(len(steps), len(frequencies))))
        counts = histograms(clipped_symbols(weights)).sum(axis=0, keepdims=True)
        table = table_frequencies(counts, margin=0, escape=True)
        frequencies = np.concatenate([frequencies, table])
        arrays |= own
    arrays |= model_to_arrays(CodingModel(model.steps, ids, frequencies, model.means, rope))
    blocks = []
    for integers, columns in coded:
        symbols, escapes = to_symbols(integers, columns, frequencies)
        blocks.append(encode_block(symbols, escapes, columns, frequencies, threads=threads))
    return tuple(blocks), arrays


def decode(chunk: EncodedChunk, planes: Planes, *, threads: int) -> None:
    """Fill these planes with the cache of a chunk.

    Raises:
        BitstreamError: arrays or blocks that do not fit the geometry or do not decode.
    """
    layout = matrix.parts(chunk.geometry, chunk.tokens_held)
    model = model_from_arrays(chunk.arrays, chunk.geometry, codec="plain")
    weights = read_weights(chunk, layout, model, threads=threads)
    dims = sum(plane.dim for plane in chunk.geometry.planes)
    finer = take(chunk.arrays, "fineness", count=dims)
    steps = coefficient_steps(model.steps, finer, chunk.geometry)
    plain.reconstruct(
        layout,
        _decoded_planes(chunk, layout, model, steps, weights, threads=threads),
        chunk.arrays,
        replace(model, steps=np.ones_like(model.steps)),
        chunk.geometry,
        start=chunk.start,
        num_tokens=chunk.num_tokens,
        planes=planes,
    )


def fineness(geometry: Geometry, rope: RopeMap) -> np.ndarray:
    """By how many quarters of an octave the steps of each plane's dimensions are finer, uint8."""
    found = []
    for index, plane in enumerate(geometry.planes):
        turning = rope.rope(index)
        own = np.full(plane.dim, _VALUES if index % 2 else _UNTURNED_KEYS)
        if turning is not None:
            speed = np.abs(np.array(turning.inverse_frequencies, dtype=np.float64))
            octaves = _FAST - np.log2(np.maximum(speed, 1e-30))
            slow = np.clip(octaves, 0, _FINEST).round()
            pairs = np.repeat(slow, 2) if turning.interleaved else np.tile(slow, 2)
            own[: len(pairs)] = pairs
        found.append(own)
    return np.concatenate(found).astype(np.uint8)


def coefficient_steps(steps: np.ndarray, finer: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The step of every coefficient, float32: its plane's, finer as its dimension says."""
    offsets = np.cumsum([plane.dim for plane in geometry.planes])[:-1]
    scales = np.exp2(np.float32(-1 / QUARTERS) * finer.astype(np.float32))
    pairs = zip(steps, geometry.planes, np.split(scales, offsets), strict=True)
    return np.concatenate([np.tile(step * own, plane.heads) for step, plane, own in pairs])


def _width(part: Part, width: int, kv: KVCache) -> int:
    """The width of a part's groups: only parts that hold all tokens are predicted."""
    return width if part.num_rows == kv.num_tokens else 0


def _scaled_planes(kv: KVCache, model: CodingModel, steps: np.ndarray) -> Iterator[torch.Tensor]:
    """Every plane's rows around their means, in units of the steps."""
    assert model.means is not None
    offsets = matrix.plane_offsets(kv.geometry)
    for plane, rows in coded_planes(kv, model.rope):
        own = slice(offsets[plane], offsets[plane + 1])
        means, units = torch.tensor(model.means[own]), torch.tensor(steps[own])
        yield rows.sub_(means).div_(units)


def _layer(kv: KVCache, model: CodingModel, steps: np.ndarray, layer: int) -> torch.Tensor:
    """A layer's scaled rows, keys and values side by side."""
    assert model.means is not None
    offsets = matrix.plane_offsets(kv.geometry)
    own = slice(offsets[2 * layer], offsets[2 * layer + 2])
    alone = KVCache((kv.keys[layer],), (kv.values[layer],), kv.num_tokens, kv.start)
    turning = [model.rope.of_plane[plane] for plane in (2 * layer, 2 * layer + 1)]
    rope = replace(model.rope, of_plane=tuple(turning))
    of_layer = replace(model, means=model.means[own], rope=rope)
    return torch.cat(list(_scaled_planes(alone, of_layer, steps[own])), dim=1)


def _sinks(kv: KVCache, layout: tuple[Part, ...]) -> dict[str, np.ndarray]:
    planes = list(kv.planes())
    return pack_planes(
        [
            planes[plane][:, : num_sinks(kv.start, kv.num_tokens, part)]
            for part in layout
            for plane in part.planes
        ]
    )


def _tables(
    layout: tuple[Part, ...], integers: Sequence[np.ndarray], num_coefficients: int
) -> tuple[np.ndarray, np.ndarray]:
    """The table of every coefficient, and the tables."""
    counts = np.zeros((num_coefficients, 256), dtype=np.int64)
    for part, own in zip(layout, integers, strict=True):
        counts[part.columns] = histograms(clipped_symbols(own))
    most = max(1, min(_MOST_TABLES, int(counts.sum()) // _SYMBOLS_PER_TABLE))
    sums, ids = cluster(counts, max_tables=most)
    return ids, table_frequencies(sums, margin=0, escape=True)


def _decoded_planes(
    chunk: EncodedChunk,
    layout: tuple[Part, ...],
    model: CodingModel,
    steps: np.ndarray,
    weights: Weights | None,
    *,
    threads: int,
) -> Iterator[torch.Tensor]:
    for part, block in zip(layout, chunk.blocks, strict=False):
        block.expect(
            part.num_rows - num_sinks(chunk.start, chunk.num_tokens, part), len(part.columns)
        )
        ids = model.table_ids[part.columns]
        decoded = decode_block(block, ids, model.frequencies, threads=threads)
        units = torch.tensor(steps[part.columns])
        own_widths = matrix.widths(chunk.geometry, part)
        if weights is None or part.num_rows != chunk.num_tokens:
            yield from _scaled(to_integers(decoded, block.escapes, own_widths), units)
        else:
            groups = group_widths(len(part.columns), weights.width)
            integers = to_integers(decoded, block.escapes, groups)
            yield from regroup(_scaled(weights.restored(integers, part.columns), units), own_widths)
        del decoded  # before the next is made


def _scaled(integers: Iterator[torch.Tensor], units: torch.Tensor) -> Iterator[torch.Tensor]:
    """Matrices side by side, times the units of their columns; overwritten."""
    first = 0
    for whole in integers:
        stop = first + whole.shape[1]
        yield whole.mul_(units[first:stop])
        first = stop
