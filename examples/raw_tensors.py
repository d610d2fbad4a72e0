"""Tensors without any engine: a cache is encoded to bytes, decoded, and kept in a store.

    python examples/raw_tensors.py

Any framework that can give keys and values as tensors `(kv_heads, tokens, head_dim)` can be used
like this. What the library cannot know without an engine is the model: its fingerprint is yours.
"""

import hashlib
import tempfile

import torch

import cachegen

LAYERS, HEADS, TOKENS, DIM = 4, 2, 320, 32
MODEL = hashlib.sha256(b"my model, its version, its adapters").digest()


def make_cache() -> cachegen.KVCache:
    """Keys and values that change slowly from token to token, as those of models do."""
    generator = torch.Generator().manual_seed(1)

    def plane() -> torch.Tensor:
        steps = torch.randn((HEADS, TOKENS, DIM), generator=generator)
        return (steps.cumsum(dim=1) / 10 + steps).to(torch.bfloat16)

    return cachegen.KVCache.from_layers([(plane(), plane()) for _ in range(LAYERS)])


def error_of(found: cachegen.KVCache, kv: cachegen.KVCache) -> float:
    """Mean squared difference over the mean square, of all keys and values."""
    pairs = [(a.float(), b.float()) for a, b in zip(found.planes(), kv.planes(), strict=True)]
    lost = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return lost / sum(float((b**2).sum()) for _, b in pairs)


def main() -> None:
    """Bytes of every level, then a store."""
    kv = make_cache()
    print(f"{kv.num_tokens} tokens, {kv.size_bytes} bytes as tensors")
    for level in ("low", "medium", "high", "packed", "lossless"):
        data = cachegen.encode(kv, level=level)
        error = error_of(cachegen.decode(data), kv)
        print(f"{level:8} {len(data):7} bytes, relative error {error:.6f}")
    with tempfile.TemporaryDirectory() as folder:
        store, tokens = cachegen.open_store(folder), list(range(TOKENS))
        cachegen.save(kv, tokens=tokens, store=store, fingerprint=MODEL, chunk_tokens=128)
        longer = [*tokens, 7, 8, 9]
        loaded = cachegen.load(longer, store=store, level="lossless", fingerprint=MODEL)
        assert loaded.kv is not None
        equal = all(map(torch.equal, loaded.kv.planes(), kv.planes()))
        print(f"loaded {loaded.num_tokens} of {len(longer)} tokens, equal: {equal}")
        other = cachegen.load(tokens, store=store, fingerprint=hashlib.sha256(b"other").digest())
        print(f"loaded {other.num_tokens} tokens for another model")


if __name__ == "__main__":
    main()
