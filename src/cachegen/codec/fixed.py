"""The codecs without statistics: `raw` (elements as they are) and `packed` (eight bits a value)."""

from __future__ import annotations

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.model import take
from cachegen.codec.vectors import dequantise_vectors, from_bits, quantise_vectors, to_bits
from cachegen.kvcache import Geometry, KVCache

Shape = tuple[int, int, int]


def plane_shapes(geometry: Geometry, tokens_held: tuple[int, ...]) -> list[Shape]:
    """(heads, tokens, dim) of every plane."""
    return [
        (plane.heads, tokens_held[index // 2], plane.dim)
        for index, plane in enumerate(geometry.planes)
    ]


def encode_raw(kv: KVCache) -> dict[str, np.ndarray]:
    """Every plane's elements, byte for byte."""
    pieces = [p.contiguous().view(torch.uint8).numpy().ravel() for p in kv.planes()]
    return {"rows": np.concatenate(pieces)}


def decode_raw(chunk: EncodedChunk) -> KVCache:
    """The inverse of `encode_raw`."""
    shapes = plane_shapes(chunk.geometry, chunk.tokens_held)
    width = chunk.geometry.dtype.itemsize
    sizes = [heads * tokens * dim * width for heads, tokens, dim in shapes]
    rows = take(chunk.arrays, "rows", count=sum(sizes))
    planes = []
    for piece, shape in zip(np.split(rows, np.cumsum(sizes)[:-1]), shapes, strict=True):
        plane = torch.empty(shape, dtype=chunk.geometry.dtype)
        plane.view(torch.uint8).numpy().reshape(-1)[:] = piece
        planes.append(plane)
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), chunk.num_tokens, chunk.start)


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


def unpack_planes(arrays: dict[str, np.ndarray], shapes: list[Shape]) -> list[torch.Tensor]:
    """The inverse of `pack_planes`: float32 planes of these shapes."""
    vectors = [heads * tokens for heads, tokens, _ in shapes]
    values = [heads * tokens * dim for heads, tokens, dim in shapes]
    scales = from_bits(take(arrays, "scales", count=sum(vectors)))
    codes = torch.from_numpy(take(arrays, "codes", count=sum(values)).copy())
    return [
        dequantise_vectors(scale.view(heads, tokens, 1), code.view(heads, tokens, dim))
        for (heads, tokens, dim), scale, code in zip(
            shapes, torch.split(scales, vectors), torch.split(codes, values), strict=True
        )
    ]


def decode_packed(chunk: EncodedChunk) -> KVCache:
    """The inverse of `encode_packed`, up to rounding."""
    shapes = plane_shapes(chunk.geometry, chunk.tokens_held)
    planes = [
        matrix.saturate(plane, chunk.geometry.dtype).to(chunk.geometry.dtype)
        for plane in unpack_planes(chunk.arrays, shapes)
    ]
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), chunk.num_tokens, chunk.start)
