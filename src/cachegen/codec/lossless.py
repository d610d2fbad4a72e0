"""Codec `lossless`: every bit kept; the exponent bytes are entropy-coded, the rest is raw.

A word is turned left by one bit, so that the sign joins the mantissa and the top byte is the
exponent (of bfloat16 and float32; of narrower exponents, with the top of the mantissa).
"""

from __future__ import annotations

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.blocks import DecodedBlock, decode_block, encode_block
from cachegen.codec.encoded import Block, EncodedChunk, take
from cachegen.codec.matrix import Part, Planes
from cachegen.codec.model import take_ids, take_tables
from cachegen.codec.tables import (
    cluster,
    histograms,
    narrow_ids,
    pack_tables,
    table_frequencies,
)
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache

# A table takes some 60 bytes. 16 took 0.004 bits a value more, of 10.53, and 64 the same: at most
# 0.01 less (docs/LOG.md, 2026-11-29, tuned constants). FORMAT.md allows 256.
_MAX_TABLES = 32
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def encode(kv: KVCache, *, threads: int) -> tuple[tuple[Block, ...], dict[str, np.ndarray]]:
    """One block of top bytes for each part, its tables, and the low bytes."""
    layout = matrix.parts(kv.geometry, matrix.tokens_held(kv))
    words = [_turn_left(_words(kv, part)) for part in layout]
    tops = [(whole >> (8 * (whole.itemsize - 1))).astype(np.uint8) for whole in words]
    counts = np.zeros((kv.geometry.values_per_token, 256), dtype=np.int64)
    for part, top in zip(layout, tops, strict=True):
        counts[part.columns] = histograms(top)
    sums, ids = cluster(counts, max_tables=_MAX_TABLES)
    frequencies = table_frequencies(sums, margin=0, escape=False)
    nothing = np.empty(0, dtype=np.int32)
    blocks = [
        encode_block(top, nothing, ids[part.columns], frequencies, threads=threads)
        for part, top in zip(layout, tops, strict=True)
    ]
    supports, packed = pack_tables(frequencies)
    low = np.concatenate([_bytes(whole)[..., :-1].ravel() for whole in words])
    arrays = {"supports": supports, "frequencies": packed, "table_ids": narrow_ids(ids)}
    return tuple(blocks), arrays | {"low_bytes": low}


def decode(chunk: EncodedChunk, planes: Planes, *, threads: int) -> None:
    """Fill these planes with the cache of a chunk, bit for bit.

    Raises:
        BitstreamError: arrays or blocks that do not fit the geometry or do not decode.
    """
    geometry, layout = chunk.geometry, matrix.parts(chunk.geometry, chunk.tokens_held)
    if len(chunk.blocks) != len(layout):
        raise BitstreamError(
            f"expected {len(layout)} blocks, got {len(chunk.blocks)}", field="blocks"
        )
    frequencies = take_tables(chunk.arrays)
    ids = take_ids(
        chunk.arrays, "table_ids", count=geometry.values_per_token, num_tables=len(frequencies)
    )
    width = geometry.dtype.itemsize - 1
    sizes = [part.num_rows * len(part.columns) * width for part in layout]
    low = np.split(take(chunk.arrays, "low_bytes", count=sum(sizes)), np.cumsum(sizes)[:-1])
    for part, block, part_low in zip(layout, chunk.blocks, low, strict=True):
        block.expect(part.num_rows, len(part.columns))
        top = decode_block(block, ids[part.columns], frequencies, threads=threads)
        shape = part.num_rows, len(part.columns), width
        _fill(planes, part, top, part_low.reshape(shape))
        del top  # before the next is made


def _words(kv: KVCache, part: Part) -> np.ndarray:
    """The part's elements as unsigned words (rows, coefficients)."""
    planes = list(kv.planes())
    word = _WORDS[kv.dtype.itemsize]
    words = np.empty((part.num_rows, len(part.columns)), dtype=word)
    first = 0
    for index in part.planes:
        plane = planes[index].transpose(0, 1).flatten(1).contiguous()
        stop = first + plane.shape[1]
        words[:, first:stop] = plane.view(torch.uint8).numpy().view(word)
        first = stop
    return words


def _fill(planes: Planes, part: Part, top: DecodedBlock, low: np.ndarray) -> None:
    """A part's planes from its bytes, one at a time so that little memory is needed.

    Args:
        planes: those to fill.
        part: which of them.
        top: the top bytes.
        low: uint8 (rows, coefficients, width).
    """
    own = [planes[index] for index in part.planes]
    first = 0
    for plane, symbols in zip(own, top.split(p.shape[0] * p.shape[2] for p in own), strict=True):
        heads, tokens, dim = plane.shape
        stop = first + heads * dim
        words = _turn_right(_join(symbols, low[:, first:stop]))
        first = stop
        matrix.as_words(plane)[:] = words.reshape(tokens, heads, dim).transpose(1, 0, 2)


def _turn_left(words: np.ndarray) -> np.ndarray:
    bits = 8 * words.itemsize
    return (words << 1) | (words >> (bits - 1))


def _turn_right(words: np.ndarray) -> np.ndarray:
    bits = 8 * words.itemsize
    return (words >> 1) | (words << (bits - 1))


def _bytes(words: np.ndarray) -> np.ndarray:
    """The little-endian bytes of words (rows, columns): (rows, columns, width)."""
    return np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, words.itemsize)


def _join(top: np.ndarray, low: np.ndarray) -> np.ndarray:
    width = low.shape[-1]
    joined = np.empty((*top.shape, width + 1), dtype=np.uint8)
    joined[..., :width] = low
    joined[..., width] = top
    return joined.view(_WORDS[width + 1])[..., 0]
