"""The codecs without statistics: `raw` (elements as they are) and `packed` (eight bits a value)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.encoded import EncodedChunk, take
from cachegen.codec.matrix import Planes, Shape
from cachegen.codec.vectors import (
    check_scales,
    dequantise_vectors,
    from_bits,
    quantise_vectors,
    to_bits,
)
from cachegen.kvcache import KVCache


def encode_raw(kv: KVCache) -> dict[str, np.ndarray]:
    """Every plane's elements, byte for byte."""
    pieces = [p.contiguous().view(torch.uint8).numpy().ravel() for p in kv.planes()]
    return {"rows": np.concatenate(pieces)}


def decode_raw(chunk: EncodedChunk, planes: Planes) -> None:
    """The inverse of `encode_raw`."""
    shapes = matrix.plane_shapes(chunk.geometry, chunk.tokens_held)
    width = chunk.geometry.dtype.itemsize
    sizes = [heads * tokens * dim * width for heads, tokens, dim in shapes]
    rows = take(chunk.arrays, "rows", count=sum(sizes))
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    for plane, piece, shape in zip(planes, pieces, shapes, strict=True):
        words = matrix.as_words(plane)
        words[:] = piece.view(words.dtype).reshape(shape)


def encode_packed(kv: KVCache) -> dict[str, np.ndarray]:
    """One int8 a value, one bfloat16 scale for each head's vector of a token.

    Raises:
        Unrepresentable: a value is NaN or infinite.
    """
    return pack_planes(list(kv.planes()))


def pack_planes(planes: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """The arrays `scales` and `codes` of planes (heads, tokens, dim)."""
    scales, codes = [], []
    for plane in planes:
        scale, code = quantise_vectors(plane)
        scales.append(to_bits(scale))
        codes.append(code.numpy().ravel())
    return {"scales": np.concatenate(scales), "codes": np.concatenate(codes)}


def unpack_planes(arrays: dict[str, np.ndarray], shapes: list[Shape]) -> Iterator[torch.Tensor]:
    """The inverse of `pack_planes`: float32 planes of these shapes, one at a time.

    Raises:
        BitstreamError: arrays of other lengths, or a scale that is none.
    """
    scales = take(arrays, "scales", count=sum(heads * tokens for heads, tokens, _ in shapes))
    codes = take(arrays, "codes", count=sum(heads * tokens * dim for heads, tokens, dim in shapes))
    check_scales(scales)
    vector = value = 0
    for heads, tokens, dim in shapes:
        vectors, values = heads * tokens, heads * tokens * dim
        scale = from_bits(scales[vector : vector + vectors]).view(heads, tokens, 1)
        code = torch.from_numpy(codes[value : value + values].copy()).view(heads, tokens, dim)
        yield dequantise_vectors(scale, code)
        vector, value = vector + vectors, value + values


def decode_packed(chunk: EncodedChunk, planes: Planes) -> None:
    """The inverse of `encode_packed`, up to rounding."""
    shapes = matrix.plane_shapes(chunk.geometry, chunk.tokens_held)
    for plane, values in zip(planes, unpack_planes(chunk.arrays, shapes), strict=True):
        plane.copy_(matrix.saturate(values, plane.dtype))
