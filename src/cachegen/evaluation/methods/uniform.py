"""Vector-wise quantisers: every head's vector of each token on a grid of its own."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.vectors import bfloat16_above, from_bits, largest, to_bits
from cachegen.evaluation.coder import Coder, Tokens, pack_bits, packed_size, unpack_bits
from cachegen.kvcache import Geometry, KVCache

UNIFORM_BITS = (3, 4, 5, 6, 8)


def uniform_coders(geometry: Geometry) -> list[Coder]:
    """Each head's vector of each token on its own grid of so many bits, with a bfloat16 scale."""
    return [
        Coder(
            "uniform", str(bits), partial(_encode_uniform, bits), _uniform_decoder(bits, geometry)
        )
        for bits in UNIFORM_BITS
    ]


def _encode_uniform(bits: int, kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    limit = 2 ** (bits - 1) - 1
    scales, codes = [], []
    for plane in kv.planes():
        rows = plane.to(torch.float32)
        scale = bfloat16_above(largest(rows) / limit)
        code = (rows / torch.where(scale > 0, scale, 1.0)).round_() + limit
        scales.append(to_bits(scale))
        codes.append(code.to(torch.uint8).numpy().ravel())
    return np.concatenate(scales).tobytes() + pack_bits(np.concatenate(codes), bits)


def _uniform_decoder(bits: int, geometry: Geometry) -> partial[KVCache]:
    return partial(_decode_uniform, bits, geometry)


def _decode_uniform(bits: int, geometry: Geometry, data: bytes, tokens: Tokens) -> KVCache:
    vectors = sum(plane.heads for plane in geometry.planes) * len(tokens)
    count = geometry.values_per_token * len(tokens)
    assert len(data) == 2 * vectors + packed_size(count, bits)
    scales = from_bits(np.frombuffer(data, np.uint16, vectors))
    codes = unpack_bits(data[2 * vectors :], bits, count=count).astype(np.float32)
    centred = torch.from_numpy(codes - (2 ** (bits - 1) - 1))
    planes = {}
    for index, plane in enumerate(geometry.planes):
        shape = (plane.heads, len(tokens), plane.dim)
        own, centred = centred[: plane.width * len(tokens)], centred[plane.width * len(tokens) :]
        scale, scales = scales[: plane.heads * len(tokens)], scales[plane.heads * len(tokens) :]
        rows = own.view(shape) * scale.view(plane.heads, len(tokens), 1)
        planes[index] = matrix.saturate(rows, geometry.dtype).to(geometry.dtype)
    return matrix.from_planes(planes, geometry, start=0, num_tokens=len(tokens))
