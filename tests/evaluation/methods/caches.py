"""Tiny caches of every geometry, and what it takes to compare them."""

from __future__ import annotations

import torch

from cachegen.evaluation.coder import Coder
from cachegen.kvcache import KVCache

# Per layer ((key heads, key dim), (value heads, value dim)).
LAYERS = {
    "gqa": (((2, 64), (2, 64)),) * 3,
    "mqa": (((1, 32), (1, 32)),) * 2,
    "mixed": (((2, 8), (2, 8)), ((1, 48), (1, 40)), ((4, 6), (4, 10))),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
VOCABULARY = 300
# Query heads and KV heads.
HEADS = {"mha": (4, 4), "gqa": (4, 2), "mqa": (4, 1)}


def make_cache(
    shapes: str, num_tokens: int, dtype: torch.dtype, *, seed: int = 0, scale: float = 1.0
) -> KVCache:
    """Normal values around a mean for each channel."""
    generator = torch.Generator().manual_seed(seed)

    def plane(heads: int, dim: int) -> torch.Tensor:
        channels = torch.Generator().manual_seed(heads * dim)
        means, spreads = torch.randn((2, heads, 1, dim), generator=channels)
        values = torch.randn((heads, num_tokens, dim), generator=generator) * (spreads.abs() + 0.1)
        return ((values + means) * scale).to(dtype)

    return KVCache.from_layers([(plane(*key), plane(*value)) for key, value in LAYERS[shapes]])


def tokens_of(kv: KVCache) -> list[int]:
    return [(7 * position + 3) % VOCABULARY for position in range(kv.num_tokens)]


def bits(kv: KVCache) -> list[bytes]:
    return [plane.contiguous().view(torch.uint8).numpy().tobytes() for plane in kv.planes()]


def error(kv: KVCache, other: KVCache) -> float:
    """Energy of the difference over that of the cache."""
    pairs = list(zip(kv.planes(), other.planes(), strict=True))
    lost = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
    return lost / sum(float(a.float().square().sum()) for a, _ in pairs)


def roundtrip(coder: Coder, kv: KVCache) -> tuple[bytes, KVCache]:
    """The bytes and what comes back; both are the same when it is done again."""
    tokens = tokens_of(kv)
    data = coder.encode(kv, tokens)
    found = coder.decode(data, tokens)
    assert coder.encode(kv, tokens) == data
    assert bits(coder.decode(data, tokens)) == bits(found)
    assert (found.geometry, found.start) == (kv.geometry, 0)
    return data, found


def text(num_tokens: int, seed: int) -> tuple[int, ...]:
    """No token twice, so that no two rows of a cache are the same."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randperm(VOCABULARY, generator=generator)[:num_tokens].tolist())
