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
        edge = torch.zeros(()) if past is None else _trace(past)
        blocks = []
        for first in range(0, len(tokens), BLOCK_TOKENS):
            block = _block(torch.tensor(tokens[first : first + BLOCK_TOKENS]), edge)
            edge = _checksum(block[:, :, -1])
            blocks.append(block)
        planes = torch.cat(blocks, dim=2)
        return KVCache(tuple(planes[0::2]), tuple(planes[1::2]), len(tokens), start=start)


def _block(tokens: torch.Tensor, edge: torch.Tensor) -> torch.Tensor:
    """(2 x layers, heads, tokens, dim) of one block, after a past with this edge."""
    state = torch.cumsum((tokens * 7919 + 13) % 9973, 0) % 9973
    waves = torch.linspace(0.1, 3.0, 2 * NUM_LAYERS * HEADS * DIM)
    values = torch.sin(state[:, None] * waves + edge).bfloat16()
    return values.reshape(len(tokens), 2 * NUM_LAYERS, HEADS, DIM).permute(1, 2, 0, 3)


def _trace(past: KVCache) -> torch.Tensor:
    """What the next block sees of the past: its last token, as the blocks before it do."""
    return _checksum(torch.stack([plane[:, -1] for plane in _planes(past)]))


def _planes(kv: KVCache) -> list[torch.Tensor]:
    """Keys and values of each layer in turn."""
    return [plane for layer in zip(kv.keys, kv.values, strict=True) for plane in layer]


def _checksum(token: torch.Tensor) -> torch.Tensor:
    """An angle out of all bits of (2 x layers, heads, dim)."""
    bits = token.contiguous().view(torch.int16).flatten().to(torch.int64)
    weights = torch.arange(1, len(bits) + 1)
    return (bits * weights).sum() % 65521 / 65521 * 2 * math.pi
