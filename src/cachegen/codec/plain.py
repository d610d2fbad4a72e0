"""Preset `plain`: un-rotated keys, channel means taken off, one step per plane, shared tables.

    keys, values -> un-rotate -> subtract means -> divide by steps -> round -> symbols -> block

The first tokens of a context (attention sinks) are kept at eight bits in every level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.fixed import pack_planes, unpack_planes
from cachegen.codec.matrix import Part, Planes, Turns, coded_planes, num_sinks, sink_shapes
from cachegen.codec.model import CodingModel
from cachegen.codec.rope import RopeMap, turn
from cachegen.codec.statistics import PlaneStatistics, measure
from cachegen.codec.symbols import clipped_symbols, quantise, to_integers, to_symbols
from cachegen.codec.tables import cluster, histograms, table_frequencies
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

# A table takes some 100 bytes, one percent of 32,768 symbols of 3 bits.
_SYMBOLS_PER_TABLE = 32_768


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedCache:
    """A cache as integers.

    Attributes:
        layout: the parts of the cache.
        integers: per part int32 (rows without sinks, coefficients).
        sinks: the arrays `scales` and `codes` of the sinks.
    """

    layout: tuple[Part, ...]
    integers: tuple[np.ndarray, ...]
    sinks: dict[str, np.ndarray]


def quantise_cache(kv: KVCache, model: CodingModel) -> QuantisedCache:
    """Everything of encoding but the entropy coder.

    Raises:
        Unrepresentable: the cache holds NaN, infinities or values far beyond the steps.
    """
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    found = {plane: quantise(rows) for plane, rows in _scaled_planes(kv, model)}
    integers = tuple(np.concatenate([found[p] for p in part.planes], axis=1) for part in layout)
    planes = list(kv.planes())
    sinks = [
        planes[p][:, : num_sinks(kv.start, kv.num_tokens, part)]
        for part in layout
        for p in part.planes
    ]
    return QuantisedCache(layout, integers, pack_planes(sinks))


def reconstruct(
    layout: tuple[Part, ...],
    integers: Iterable[torch.Tensor],
    sinks: dict[str, np.ndarray],
    model: CodingModel,
    geometry: Geometry,
    *,
    start: int,
    num_tokens: int,
    planes: Planes,
) -> None:
    """Fill planes with the cache behind integers and sinks.

    Args:
        layout: the parts of the cache.
        integers: for the planes in the order of the parts, float32 (rows without sinks, width);
            overwritten.
        sinks: the arrays `scales` and `codes` of the sinks.
        model: what the cache was quantised with.
        geometry: planes and dtype of the cache.
        start: absolute position of the first token.
        num_tokens: tokens covered.
        planes: those to fill.
    """
    shapes = sink_shapes(geometry, layout, start=start, num_tokens=num_tokens)
    fine = unpack_planes(sinks, shapes)
    owners = [(part, plane) for part in layout for plane in part.planes]
    offsets = matrix.plane_offsets(geometry)
    turns = Turns(model.rope, start=start, num_tokens=num_tokens)
    for (part, index), whole, first in zip(owners, integers, fine, strict=True):
        shape, plane = geometry.planes[index], planes[index]
        whole.mul_(float(model.steps[index])).add_(_means(model, offsets, index))
        rows = whole.view(len(whole), shape.heads, shape.dim)
        by = turns.of(part, index)
        if by is not None:
            turn(rows, by, inverse=False)
        matrix.fill_plane(plane[:, : first.shape[1]], first.transpose(0, 1))
        matrix.fill_plane(plane[:, first.shape[1] :], rows)


def encode(
    kv: KVCache, model: CodingModel, *, threads: int
) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
    """One block for each part, and the sinks.

    Raises:
        Unrepresentable: as `quantise_cache`.
    """
    quantised = quantise_cache(kv, model)
    blocks = []
    for part, integers in zip(quantised.layout, quantised.integers, strict=True):
        ids = model.table_ids[part.columns]
        symbols, escapes = to_symbols(integers, ids, model.frequencies)
        blocks.append(encode_block(symbols, escapes, ids, model.frequencies, threads=threads))
    return tuple(blocks), quantised.sinks


def decode(chunk: EncodedChunk, planes: Planes, model: CodingModel, *, threads: int) -> None:
    """Fill these planes with the cache of a chunk.

    Raises:
        BitstreamError: blocks that do not fit the geometry or do not decode.
    """
    layout = matrix.parts(chunk.geometry, chunk.tokens_held)
    if len(chunk.blocks) != len(layout):
        raise BitstreamError(
            f"expected {len(layout)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    reconstruct(
        layout,
        _decoded_planes(chunk, layout, model, threads=threads),
        chunk.arrays,
        model,
        chunk.geometry,
        start=chunk.start,
        num_tokens=chunk.num_tokens,
        planes=planes,
    )


def roundtrip(kv: KVCache, model: CodingModel) -> KVCache:
    """What `decode` would make of `encode`'s output, without coding anything."""
    quantised = quantise_cache(kv, model)
    integers = (
        torch.from_numpy(whole).to(torch.float32)
        for part, matrix_of_part in zip(quantised.layout, quantised.integers, strict=True)
        for whole in np.split(
            matrix_of_part, np.cumsum(matrix.widths(kv.geometry, part))[:-1], axis=1
        )
    )
    planes = matrix.empty_planes(kv.geometry, matrix.tokens_held(kv))
    reconstruct(
        quantised.layout,
        integers,
        quantised.sinks,
        model,
        kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
        planes=planes,
    )
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), kv.num_tokens, kv.start)


def statistics(samples: Iterable[KVCache], rope: RopeMap) -> PlaneStatistics:
    """Means of the coefficients and the RMS of every plane around them, sinks left out."""
    return measure(samples, lambda kv: coded_planes(kv, rope))


def fit(kv: KVCache, rope: RopeMap, step: float) -> CodingModel:
    """A model for this cache alone: its own means, steps of `step` RMS, and its own tables.

    Raises:
        Unrepresentable: as `quantise_cache`.
    """
    found = statistics([kv], rope)
    blank = blank_model(found, rope, step)
    counts = symbol_counts(kv, blank)
    largest = max(1, min(64, int(counts.sum()) // _SYMBOLS_PER_TABLE))
    sums, ids = cluster(counts, max_tables=largest)
    tables = table_frequencies(sums, margin=0, escape=True)
    return CodingModel(blank.steps, ids, tables, blank.means, rope)


def blank_model(found: PlaneStatistics, rope: RopeMap, step: float) -> CodingModel:
    """A model that can quantise and reconstruct but has no tables yet."""
    nothing = np.zeros(0, dtype=np.int64)
    steps = (found.rms * np.float32(step)).astype(np.float32)
    return CodingModel(steps, nothing, np.zeros((0, 256), np.uint16), found.means, rope)


def symbol_counts(kv: KVCache, model: CodingModel) -> np.ndarray:
    """How often each coefficient takes each symbol: int64 (coefficients, 256)."""
    offsets = matrix.plane_offsets(kv.geometry)
    counts = np.zeros((kv.geometry.values_per_token, 256), dtype=np.int64)
    for plane, rows in _scaled_planes(kv, model):
        symbols = clipped_symbols(quantise(rows))
        counts[offsets[plane] : offsets[plane + 1]] = histograms(symbols)
    return counts


def _scaled_planes(kv: KVCache, model: CodingModel) -> Iterator[tuple[int, torch.Tensor]]:
    """Every plane's rows around their means, in units of the plane's step."""
    offsets = matrix.plane_offsets(kv.geometry)
    for plane, rows in coded_planes(kv, model.rope):
        yield plane, rows.sub_(_means(model, offsets, plane)).div_(float(model.steps[plane]))


def _decoded_planes(
    chunk: EncodedChunk, layout: tuple[Part, ...], model: CodingModel, *, threads: int
) -> Iterator[torch.Tensor]:
    for part, block in zip(layout, chunk.blocks, strict=True):
        rows = part.num_rows - num_sinks(chunk.start, chunk.num_tokens, part)
        block.expect(rows, len(part.columns))
        ids = model.table_ids[part.columns]
        decoded = decode_block(block, ids, model.frequencies, threads=threads)
        yield from to_integers(decoded, block.escapes, matrix.widths(chunk.geometry, part))
        del decoded  # before the next is made


def _means(model: CodingModel, offsets: np.ndarray, plane: int) -> torch.Tensor:
    assert model.means is not None
    return torch.tensor(model.means[offsets[plane] : offsets[plane + 1]])
