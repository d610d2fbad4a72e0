"""Coders that keep every bit: raw, zstd behind a shuffle, and this package's `lossless`.

The shuffles are those of HDF5 and Blosc: all first bytes, then all second ones (`bytes`); or all
first bits, then all second ones, and so on (`bits`, Masui et al., arXiv 1503.00638, without its
blocks of 8 KiB). Words stand channel by channel, tokens last: there exponents are most alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import zstandard

from cachegen.codec import matrix
from cachegen.codec.levels import LOSSLESS
from cachegen.codec.rope import RopeMap
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.evaluation.methods.planes import Reader, to_bytes, words_of
from cachegen.evaluation.methods.presets import adaptive_coder
from cachegen.kvcache import Geometry, KVCache

# Of zstd. Two layers of SmolLM2 over 1,024 tokens of WikiText, shuffled by bytes, took 10.91 bits a
# value at level 1, 11.22 at 3, 11.03 at 9, and 10.85 at 19, which takes a hundred times as long.
_ZSTD_LEVEL = 1
SHUFFLES = ("bytes", "bits")

Shuffle = Callable[[np.ndarray], np.ndarray]


def raw_coder(geometry: Geometry) -> Coder:
    """The elements of the cache as they are, without a header."""
    return Coder(
        "raw", str(8 * geometry.dtype.itemsize), _encode_raw, partial(_decode_raw, geometry)
    )


def zstd_coders(geometry: Geometry) -> list[Coder]:
    """A coder for each shuffle."""
    return [
        Coder("zstd", name, partial(_encode_zstd, name), partial(_decode_zstd, name, geometry))
        for name in SHUFFLES
    ]


def lossless_coder() -> Coder:
    """This package's level `lossless`, whole packed chunks."""
    return replace(adaptive_coder(RopeMap((), ()), LOSSLESS), method=LOSSLESS)


def _encode_raw(kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    return b"".join(map(to_bytes, kv.planes()))


def _decode_raw(geometry: Geometry, data: bytes, tokens: Tokens) -> KVCache:
    reader, planes = Reader(data), {}
    for index, plane in enumerate(geometry.planes):
        planes[index] = reader.plane((plane.heads, len(tokens), plane.dim), geometry.dtype)
    reader.end()
    return matrix.from_planes(planes, geometry, start=0, num_tokens=len(tokens))


def _encode_zstd(shuffle: str, kv: KVCache, tokens: Tokens) -> bytes:
    del tokens
    by_channel = (words_of(plane.transpose(1, 2)) for plane in kv.planes())
    shuffled = b"".join(_shuffled(words, shuffle) for words in by_channel)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(shuffled)


def _decode_zstd(shuffle: str, geometry: Geometry, data: bytes, tokens: Tokens) -> KVCache:
    reader, planes = Reader(zstandard.ZstdDecompressor().decompress(data)), {}
    for index, plane in enumerate(geometry.planes):
        count = plane.width * len(tokens)
        words = _unshuffled(reader.take(count * geometry.dtype.itemsize), shuffle, count)
        by_channel = Reader(words).plane((plane.heads, plane.dim, len(tokens)), geometry.dtype)
        planes[index] = by_channel.transpose(1, 2).contiguous()
    reader.end()
    return matrix.from_planes(planes, geometry, start=0, num_tokens=len(tokens))


def _shuffled(words: np.ndarray, shuffle: str) -> bytes:
    """Words one byte of each after the other; with `bits` each of these one bit after the other."""
    lanes = words.reshape(-1).view(np.uint8).reshape(words.size, words.itemsize).T
    if shuffle == "bits":
        lanes = np.stack([_bit_lanes(lane) for lane in lanes]) if words.size else lanes
    return lanes.tobytes()


def _unshuffled(data: bytes, shuffle: str, count: int) -> bytes:
    """The inverse of `_shuffled`."""
    lanes = (
        np.frombuffer(data, np.uint8).reshape(-1, count) if count else np.empty((0, 0), np.uint8)
    )
    if shuffle == "bits":
        lanes = np.stack([_byte_lane(lane) for lane in lanes]) if count else lanes
    return lanes.T.tobytes()


def _bit_lanes(lane: np.ndarray) -> np.ndarray:
    """Bytes (n,) as the first bits of all, then the second ones: uint8 (n,)."""
    bits = np.unpackbits(lane[:, None], axis=1)
    return np.packbits(bits.T.reshape(-1))


def _byte_lane(bits: np.ndarray) -> np.ndarray:
    """The inverse of `_bit_lanes`."""
    lanes = np.unpackbits(bits).reshape(8, -1)
    return np.packbits(lanes.T.reshape(-1))
