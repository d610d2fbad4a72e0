"""What every method is: bytes from a cache, and a cache from bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cachegen.kvcache import KVCache

Tokens = Sequence[int]


@dataclass(frozen=True, slots=True)
class Coder:
    """One point of a method's curve.

    Attributes:
        method: name of the method, as rows and `--methods` say it.
        level: which point of the method's curve.
        encode: a cache from position 0 and its tokens to all bytes that have to be stored.
        decode: those bytes and the tokens to the cache; of fewer tokens where some are dropped.
        is_shorter_text: whether what is decoded is the cache of a shorter text, at whose end the
            model goes on; else it goes on at the context's, whatever was dropped.
    """

    method: str
    level: str
    encode: Callable[[KVCache, Tokens], bytes]
    decode: Callable[[bytes, Tokens], KVCache]
    is_shorter_text: bool = False

    def roundtrip(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """The cache as it comes back."""
        return self.decode(self.encode(kv, tokens), tokens)


def pack_bits(codes: np.ndarray, num_bits: int) -> bytes:
    """Codes below 2**num_bits, uint8 (n,), one after the other without gaps; 16 bits as uint16."""
    if num_bits == 16:
        return codes.astype("<u2").tobytes()
    if 8 % num_bits == 0:
        lanes = _in_lanes(codes, num_bits)
        shifted = (lanes[:, lane] << shift for lane, shift in _shifts(num_bits))
        whole: np.ndarray = np.bitwise_or.reduce(list(shifted))
        return whole.tobytes()
    bits = np.unpackbits(codes[:, None], axis=1)[:, 8 - num_bits :]
    return np.packbits(bits).tobytes()


def unpack_bits(data: bytes, num_bits: int, *, count: int) -> np.ndarray:
    """The inverse of `pack_bits`: uint8 (count,), of 16 bits uint16."""
    if num_bits == 16:
        return np.frombuffer(data, "<u2", count)
    packed = np.frombuffer(data, np.uint8)
    if 8 % num_bits == 0:
        packed = packed[: packed_size(count, num_bits)]
        mask = (1 << num_bits) - 1
        lanes = [(packed >> shift) & mask for _, shift in _shifts(num_bits)]
        return np.stack(lanes, axis=1).ravel()[:count]
    bits = np.unpackbits(packed, count=count * num_bits).reshape(count, num_bits)
    padded = np.zeros((count, 8), np.uint8)
    padded[:, 8 - num_bits :] = bits
    return np.packbits(padded)


def _in_lanes(codes: np.ndarray, num_bits: int) -> np.ndarray:
    """Codes (bytes, codes of a byte), with zeros behind the last."""
    count = 8 // num_bits
    padded = np.zeros(-(-len(codes) // count) * count, np.uint8)
    padded[: len(codes)] = codes
    return padded.reshape(-1, count)


def _shifts(num_bits: int) -> list[tuple[int, int]]:
    """Where each code of a byte lies, the first one highest."""
    return [(lane, 8 - num_bits * (lane + 1)) for lane in range(8 // num_bits)]


def packed_size(count: int, num_bits: int) -> int:
    """How many bytes `pack_bits` makes."""
    return -(-count * num_bits // 8)
