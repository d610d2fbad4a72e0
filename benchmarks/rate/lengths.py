"""Whole contexts coded chunk by chunk, in the ways that they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cachegen.codec.calibration.long_contexts import in_chunks
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.quality import as_dtype, evaluator
from cachegen.engines.transformers.text_windows import Window
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import KVCache

CHUNK_TOKENS = 1536
_WAYS = ("stored", "continued", "mixed")
Row = dict[str, object]


def measure(model: Any, chunks: Chunks, domain: str, windows: Sequence[Window]) -> Iterator[Row]:
    """A row for every way; contexts are prefilled one after the other, and once."""
    sums: dict[str, list[Any]] = {way: [] for way in _WAYS}
    for window in windows:
        judge = evaluator(model, {domain: [window]})
        for way in _WAYS:
            chunks.num_bytes = chunks.num_values = 0
            quality = judge(getattr(chunks, way))[domain]
            sums[way].append((quality, chunks.num_bytes, chunks.num_values))
    for way, found in sums.items():
        qualities = [quality for quality, _, _ in found]
        num_values = sum(values for _, _, values in found)
        yield {
            "domain": domain,
            "way": way,
            "bits_per_value": _short(8 * sum(size for _, size, _ in found) / max(num_values, 1)),
            "kl": _short(sum(one.kl for one in qualities) / len(qualities)),
            "largest_kl": _short(max(one.kl for one in qualities)),
            "rel_ppl": _short(sum(one.rel_ppl for one in qualities) / len(qualities)),
            "top1": _short(sum(one.top1 for one in qualities) / len(qualities)),
            "windows": len(qualities),
        }


def _short(number: float) -> float:
    return float(f"{number:.4g}")


class Chunks:
    """Round trips of whole contexts, chunk by chunk; counts what is stored for them."""

    def __init__(self, model: Any, coder: Coder, dtype: torch.dtype) -> None:
        self._model, self._coder, self._dtype = model, coder, dtype
        self.num_bytes = self.num_values = 0

    def stored(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """Every chunk."""
        return in_chunks(self._coded, CHUNK_TOKENS)(kv, tokens)

    def continued(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """A first half that was stored, and what follows computed on top of it and stored."""
        half = _half(kv)
        front = self.stored(kv.slice(0, half), tokens[:half])
        back = capture(self._model, tokens[half:], past=front)
        return KVCache.concat([front, self.stored(back, tokens[half:])])

    def mixed(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """A first half that is computed anew."""
        half = _half(kv)
        back = self.stored(kv.slice(half, kv.num_tokens), tokens[half:])
        return KVCache.concat([kv.slice(0, half), back])

    def _coded(self, part: KVCache, tokens: Tokens) -> KVCache:
        data = self._coder.encode(as_dtype(part, self._dtype), tokens)
        self.num_bytes += len(data)
        self.num_values += part.num_values
        return as_dtype(self._coder.decode(data, tokens), part.dtype)


def _half(kv: KVCache) -> int:
    """Where the second half begins: at a chunk where there are two or more."""
    chunks = kv.num_tokens // CHUNK_TOKENS
    return CHUNK_TOKENS * (chunks // 2) if chunks > 1 else kv.num_tokens // 2 // 64 * 64
