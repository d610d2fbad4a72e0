"""A small model for fault tests: its cache depends on the tokens and on every bit of the past."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence

import torch

from cachegen.kvcache import KVCache

FINGERPRINT = hashlib.sha256(b"cachegen fault model").digest()
NUM_LAYERS, HEADS, DIM = 4, 2, 16
BLOCK_TOKENS = 64
SECONDS_PER_TOKEN = 1e-4
PRIME, SPREAD = 65521, 40503


class CausalModel:
    """Computes 64 tokens at a time, each block on top of the cache so far."""

    def kv(self, tokens: Sequence[int]) -> KVCache:
        """The true cache."""
        return self.compute(tokens, past=None)

    def recompute(self, tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        """As an engine would: the same as `compute`, and not for nothing."""
        time.sleep(SECONDS_PER_TOKEN * len(tokens))
        return self.compute(tokens, past=past)

    def compute(self, tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        """Deterministic to the bit; on another past, if only by a bit, everything is different."""
        start = 0 if past is None else past.num_tokens
        trace = 0 if past is None else _trace(torch.stack(_planes(past)), first=0)
        blocks = []
        for first in range(0, len(tokens), BLOCK_TOKENS):
            block = _block(torch.tensor(tokens[first : first + BLOCK_TOKENS]), _angle(trace))
            trace = (trace + _trace(block, first=start + first)) % PRIME
            blocks.append(block)
        planes = torch.cat(blocks, dim=2)
        return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), len(tokens), start=start)


def _block(tokens: torch.Tensor, angle: float) -> torch.Tensor:
    """(2 x layers, heads, tokens, dim) of one block, after a past with this angle."""
    state = torch.cumsum((tokens * 7919 + 13) % 9973, 0) % 9973
    waves = torch.linspace(0.1, 3.0, 2 * NUM_LAYERS * HEADS * DIM)
    values = torch.sin(state[:, None] * waves + angle).bfloat16()
    return values.reshape(len(tokens), 2 * NUM_LAYERS, HEADS, DIM).permute(1, 2, 0, 3)


def _planes(kv: KVCache) -> list[torch.Tensor]:
    """Keys and values of each layer in turn."""
    return [plane for layer in zip(kv.keys, kv.values, strict=True) for plane in layer]


def _trace(values: torch.Tensor, *, first: int) -> int:
    """A checksum of (2 x layers, heads, tokens, dim) from token ``first`` on.

    Those of adjacent ranges add up to that of both. Every bit counts, by a weight of its value and
    one of its token that are no multiples of the modulus, a prime.
    """
    bits = values.contiguous().view(torch.int16).to(torch.int64)
    by_token = bits.permute(2, 0, 1, 3).flatten(1)
    weighted = (by_token * torch.arange(1, by_token.shape[1] + 1)).sum(1) % PRIME
    positions = torch.arange(first + 1, first + 1 + len(weighted))
    return int((weighted * positions).sum()) % PRIME


def _angle(trace: int) -> float:
    """Far apart for traces that are close together."""
    return trace * SPREAD % PRIME / PRIME * 2 * math.pi
