"""Preset `plain`: un-rotated keys, channel means taken off, one step per plane, shared tables.

    keys, values -> un-rotate -> subtract means -> divide by steps -> round -> symbols -> block

The first tokens of a context (attention sinks) are kept at eight bits in every level.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.fixed import Shape, pack_planes, unpack_planes
from cachegen.codec.matrix import Part
from cachegen.codec.model import CodingModel
from cachegen.codec.rope import RopeMap, rotate
from cachegen.codec.statistics import PlaneStatistics, measure
from cachegen.codec.symbols import clipped_symbols, quantise, to_integers, to_symbols
from cachegen.codec.tables import cluster, histograms, table_frequencies
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

SINKS = 4
_SYMBOLS_PER_TABLE = 32_768


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A cache as integers.

    Attributes:
        layout: the parts of the cache.
        integers: per part int32 (rows without sinks, coefficients).
        sinks: the arrays `scales` and `codes` of the sinks.
    """

    layout: tuple[Part, ...]
    integers: tuple[np.ndarray, ...]
    sinks: dict[str, np.ndarray]


def quantise_cache(kv: KVCache, model: CodingModel) -> Quantised:
    """Everything of encoding but the entropy coder.

    Raises:
        Unrepresentable: the cache holds NaN, infinities or values far beyond the steps.
    """
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    integers = tuple(_quantise_part(kv, part, model) for part in layout)
    planes = list(kv.planes())
    sinks = [
        planes[p][:, : _num_sinks(kv.start, kv.num_tokens, part)]
        for part in layout
        for p in part.planes
    ]
    return Quantised(layout, integers, pack_planes(sinks))


def reconstruct(
    layout: tuple[Part, ...],
    integers: list[torch.Tensor],
    sinks: dict[str, np.ndarray],
    model: CodingModel,
    geometry: Geometry,
    *,
    start: int,
    num_tokens: int,
) -> KVCache:
    """The cache that float32 `integers`, one matrix for each part, and its sinks stand for."""
    shapes = _sink_shapes(geometry, layout, start=start, num_tokens=num_tokens)
    fine = iter(unpack_planes(sinks, shapes))
    matrices = []
    for part, whole in zip(layout, integers, strict=True):
        rows = torch.empty((part.num_rows, len(part.columns)), dtype=torch.float32)
        coded = rows[_num_sinks(start, num_tokens, part) :]
        torch.addcmul(_means(model, part), whole, _steps(model, geometry, part), out=coded)
        _turn(rows, geometry, part, model.rope, start + num_tokens, inverse=False)
        for view in matrix.split(rows, geometry, part):
            plane = next(fine)
            view[: plane.shape[1]] = plane.transpose(0, 1)
        matrices.append(rows)
    return matrix.assemble(matrices, geometry, layout, start=start, num_tokens=num_tokens)


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


def decode(chunk: EncodedChunk, model: CodingModel, *, threads: int) -> KVCache:
    """The cache of a chunk.

    Raises:
        BitstreamError: blocks that do not fit the geometry or do not decode.
    """
    layout = matrix.parts(chunk.geometry, chunk.tokens_held)
    if len(chunk.blocks) != len(layout):
        raise BitstreamError(
            f"expected {len(layout)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    integers = []
    for part, block in zip(layout, chunk.blocks, strict=True):
        rows = part.num_rows - _num_sinks(chunk.start, chunk.num_tokens, part)
        block.expect(rows, len(part.columns))
        ids = model.table_ids[part.columns]
        symbols = decode_block(block, ids, model.frequencies, threads=threads)
        integers.append(to_integers(symbols, block.escapes))
    return reconstruct(
        layout,
        integers,
        chunk.arrays,
        model,
        chunk.geometry,
        start=chunk.start,
        num_tokens=chunk.num_tokens,
    )


def roundtrip(kv: KVCache, model: CodingModel) -> KVCache:
    """What `decode` would make of `encode`'s output, without coding anything."""
    quantised = quantise_cache(kv, model)
    integers = [torch.from_numpy(whole.astype(np.float32)) for whole in quantised.integers]
    return reconstruct(
        quantised.layout,
        integers,
        quantised.sinks,
        model,
        kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
    )


def statistics(samples: Iterable[KVCache], rope: RopeMap) -> PlaneStatistics:
    """Means of the coefficients and the RMS of every plane around them, sinks left out."""
    return measure(samples, lambda kv, part: _coded_rows(kv, part, rope))


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
    counts = np.zeros((kv.geometry.values_per_token, 256), dtype=np.int64)
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    for part in layout:
        counts[part.columns] += histograms(clipped_symbols(_quantise_part(kv, part, model)))
    return counts


def _sink_shapes(
    geometry: Geometry, layout: tuple[Part, ...], *, start: int, num_tokens: int
) -> list[Shape]:
    """(heads, sinks, dim) of every plane, in the order of the parts."""
    return [
        (geometry.planes[p].heads, _num_sinks(start, num_tokens, part), geometry.planes[p].dim)
        for part in layout
        for p in part.planes
    ]


def _num_sinks(start: int, num_tokens: int, part: Part) -> int:
    complete = part.num_rows == num_tokens
    return max(0, min(SINKS - start, num_tokens)) if complete else 0


def _coded_rows(kv: KVCache, part: Part, rope: RopeMap) -> torch.Tensor:
    rows = matrix.gather(kv, part)
    _turn(rows, kv.geometry, part, rope, kv.stop, inverse=True)
    return rows[_num_sinks(kv.start, kv.num_tokens, part) :]


def _quantise_part(kv: KVCache, part: Part, model: CodingModel) -> np.ndarray:
    rows = _coded_rows(kv, part, model.rope)
    rows.sub_(_means(model, part)).div_(_steps(model, kv.geometry, part))
    return quantise(rows)


def _turn(
    rows: torch.Tensor, geometry: Geometry, part: Part, rope: RopeMap, stop: int, *, inverse: bool
) -> None:
    positions = torch.arange(stop - part.num_rows, stop)
    for plane, view in zip(part.planes, matrix.split(rows, geometry, part), strict=True):
        rotation = rope.rope(plane)
        if rotation is not None:
            rotate(view, rotation, positions, inverse=inverse)


def _means(model: CodingModel, part: Part) -> torch.Tensor:
    assert model.means is not None
    return torch.from_numpy(model.means[part.columns])


def _steps(model: CodingModel, geometry: Geometry, part: Part) -> torch.Tensor:
    planes = matrix.plane_of_coefficient(geometry)[part.columns]
    return torch.from_numpy(model.steps[planes])
