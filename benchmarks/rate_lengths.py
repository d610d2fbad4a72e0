"""Bits and KL against the length of a context, coded chunk by chunk as contexts are stored.

    .venv/bin/python benchmarks/rate_lengths.py --model DIR --data DIR [--profile FILE]
        [--level NAME] [--lengths 1536,4096,7800] [--windows N] [--json]

The model runs in float32, its caches are rounded to the profile's dtype before they are coded. The
texts are those of `rate_quality.py --model`: novels, WikiText and conversations that no profile has
learned from. Ways that a context is used:

    stored     every chunk is coded and decoded
    continued  the first half of the chunks is coded and decoded, the rest prefilled on top of that
               and then coded: a context that grew
    mixed      the first half is computed anew, the rest decoded

Rows are printed as they come and appended to benchmarks/results/model_lengths.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rate_baselines import profile_coder
from rate_coder import Coder, Tokens
from record import append

from cachegen.cli.models import load_network, load_tokenizer
from cachegen.codec.codec import resolve_level
from cachegen.codec.profile import read_profile
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.quality import Window, as_dtype, evaluator
from cachegen.kvcache import KVCache

CHUNK_TOKENS = 1536
_WAYS = ("stored", "continued", "mixed")
Row = dict[str, object]


def main() -> None:
    options = _options()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from rate_models import PROFILE, divided, held_out_texts, windows_of

    profile = read_profile(options.profile or options.model / PROFILE)
    level = resolve_level(profile, options.level).name
    tokenizer, model = load_tokenizer(options.model), load_network(options.model, dtype="float32")
    chunks = Chunks(model, profile_coder("transform", profile, level), profile.geometry.dtype)
    quarters = held_out_texts(tokenizer, options.data, divided(tokenizer, options.data))
    for length in options.lengths:
        for domain, own in quarters.items():
            try:
                windows = windows_of(tokenizer, own, count=options.windows, num_tokens=length)
            except ValueError as exc:
                print(f"{domain}, {length} tokens: left out, {exc}", file=sys.stderr)
                continue
            rows = [
                {"model": options.model.name, "level": level, "context_tokens": length, **row}
                for row in measure(model, chunks, domain, windows)
            ]
            append("model_lengths", rows)
            for row in rows:
                text = (f"{key}={value}" for key, value in row.items())
                print(json.dumps(row) if options.json else " ".join(text), flush=True)


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--data", type=Path, required=True, help="see rate_quality.py --model")
    parser.add_argument("--profile", type=Path, help="of the model; its folder's own by default")
    parser.add_argument("--level", help="of the profile; its default level by default")
    parser.add_argument(
        "--lengths",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1536, 4096, 7800],
        help="tokens of the contexts",
    )
    parser.add_argument("--windows", type=int, default=2, help="contexts a domain and length")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    return parser.parse_args()


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
        return KVCache.concat([self._coded(part, tokens) for part in _parts(kv)])

    def continued(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """A first half that was stored, and what follows computed on top of it and stored."""
        half = _half(kv)
        front = self.stored(kv.slice(0, half), tokens[:half])
        back = capture(self._model, tokens[half:], past=front)
        return KVCache.concat([front, *(self._coded(part, tokens) for part in _parts(back))])

    def mixed(self, kv: KVCache, tokens: Tokens) -> KVCache:
        """A first half that is computed anew."""
        half = _half(kv)
        back = _parts(kv.slice(half, kv.num_tokens))
        return KVCache.concat([kv.slice(0, half), *(self._coded(part, tokens) for part in back)])

    def _coded(self, part: KVCache, tokens: Tokens) -> KVCache:
        own = tokens[part.start : part.stop]
        data = self._coder.encode(as_dtype(part, self._dtype), own)
        self.num_bytes += len(data)
        self.num_values += part.num_values
        return as_dtype(self._coder.decode(data, own), part.dtype)


def _half(kv: KVCache) -> int:
    """Where the second half begins: at a chunk where there are two or more."""
    chunks = kv.num_tokens // CHUNK_TOKENS
    return CHUNK_TOKENS * (chunks // 2) if chunks > 1 else kv.num_tokens // 2 // 64 * 64


def _parts(kv: KVCache) -> list[KVCache]:
    return [
        kv.slice(first, min(first + CHUNK_TOKENS, kv.num_tokens))
        for first in range(0, kv.num_tokens, CHUNK_TOKENS)
    ]


if __name__ == "__main__":
    main()
