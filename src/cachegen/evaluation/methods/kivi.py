"""A coder in the style of KIVI: whole bits on asymmetric grids, keys by channel, values by token.

Liu et al., KIVI, ICML 2024, arXiv 2402.02750; sizes are those of its code (jy-yuan/KIVI). Keys are
taken as the model caches them, rotated: of each channel 32 tokens share a grid. Of values 32
channels of a token do. Each grid has a float16 step and a float16 least value. As in the published
code, the last 128 tokens of values keep their 16 bits, and of keys those behind the last multiple
of 128. A head whose width is no multiple of 32 gets the widest groups that divide it.

Published are caches of float16, quantised in memory. Here they are of any dtype and codes are
packed without gaps; so sizes are the published ones, and codes fit the rounded steps, in KIVI's
favour. The published method quantises a cache that grows as the model writes; the context here is
quantised once, behind which the model goes on in full precision, in its favour too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from cachegen.codec import matrix
from cachegen.evaluation.coder import Coder, Tokens, pack_bits, packed_size, unpack_bits
from cachegen.evaluation.methods.grids import dequantise, quantise
from cachegen.evaluation.methods.planes import Reader, rounded, to_bytes
from cachegen.kvcache import Geometry, KVCache, PlaneShape

BITS = (4, 2)
GROUP = 32
RESIDUAL = 128


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a plane's tokens are divided.

    Attributes:
        coded: how many of the first tokens have grids.
        groups: shape of the coded tokens, divided into groups.
        dim: along which of these dimensions a group extends.
    """

    coded: int
    groups: tuple[int, int, int, int]
    dim: int

    @property
    def grids(self) -> tuple[int, ...]:
        """Shape of steps and least values."""
        return tuple(1 if i == self.dim else size for i, size in enumerate(self.groups))


def kivi_coders(geometry: Geometry) -> list[Coder]:
    """A coder for each number of bits."""
    return [
        Coder("kivi", str(bits), partial(_encode, bits), partial(_decode, bits, geometry))
        for bits in BITS
    ]


def _layout(index: int, plane: PlaneShape, num_tokens: int) -> _Layout:
    if index % 2 == 0:
        coded = num_tokens - num_tokens % RESIDUAL
        return _Layout(coded, (plane.heads, coded // GROUP, GROUP, plane.dim), 2)
    coded = max(0, num_tokens - RESIDUAL)
    width = max(size for size in range(1, GROUP + 1) if plane.dim % size == 0)
    return _Layout(coded, (plane.heads, coded, plane.dim // width, width), 3)


def _encode(bits: int, kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    pieces = []
    for index, (plane, shape) in enumerate(zip(kv.planes(), kv.geometry.planes, strict=True)):
        layout = _layout(index, shape, kv.num_tokens)
        rows = plane[:, : layout.coded].float().reshape(layout.groups)
        codes, step, low = quantise(rows, layout.dim, 2**bits)
        pieces += [pack_bits(codes.numpy().reshape(-1), bits), to_bytes(step), to_bytes(low)]
        pieces.append(to_bytes(plane[:, layout.coded :]))
    return b"".join(pieces)


def _decode(bits: int, geometry: Geometry, data: bytes, tokens: Tokens) -> KVCache:
    reader, planes = Reader(data), {}
    for index, shape in enumerate(geometry.planes):
        layout = _layout(index, shape, len(tokens))
        count = layout.coded * shape.width
        packed = reader.take(packed_size(count, bits))
        codes = torch.from_numpy(unpack_bits(packed, bits, count=count)).view(layout.groups)
        step, low = (reader.plane(layout.grids, torch.float16) for _ in range(2))
        rows = dequantise(codes, step, low).view(shape.heads, layout.coded, shape.dim)
        last = reader.plane((shape.heads, len(tokens) - layout.coded, shape.dim), geometry.dtype)
        planes[index] = torch.cat([rounded(rows, geometry.dtype), last], dim=1)
    reader.end()
    return matrix.from_planes(planes, geometry, start=0, num_tokens=len(tokens))
