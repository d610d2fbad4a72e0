"""What a load must give: every chunk as its level decodes, or as the model computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.codec import decode_chunk
from cachegen.codec.levels import TEXT
from cachegen.codec.profile import Profile
from cachegen.contexts.objects import open_chunk
from cachegen.contexts.outcome import LoadedChunk
from cachegen.contexts.save import save
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.store import Store, read
from faults.model import FINGERPRINT, CausalModel
from faults.profiles import VOCABULARY, plain_profile, transform_profile

CHUNK_TOKENS = 256
LENGTHS = (1500, 1000, 330)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Tokens to load.

    Attributes:
        tokens: what is asked for.
        profile: what the context was saved with.
        manifest: of the stored context that they are a part of, or that is a part of them.
        num_stored: how many of them are stored.
    """

    tokens: list[int]
    profile: Profile | None
    manifest: Manifest
    num_stored: int


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The model, and every stored object decoded once, from the store itself."""

    model: CausalModel
    requests: list[Request]
    decoded: dict[str, KVCache] = field(default_factory=dict)

    def flaw(self, result: LoadResult, request: Request) -> str:
        """What is wrong with the cache of a result; empty where nothing is."""
        if result.kv is None:
            return "" if result.num_tokens == 0 else "tokens without a cache"
        covered = [chunk for chunk in result.chunks if chunk.level is not None]
        edges = [0, *(chunk.stop for chunk in covered)]
        if [chunk.start for chunk in covered] != edges[:-1] or edges[-1] != result.num_tokens:
            return f"its chunks do not cover its {result.num_tokens} tokens"
        if (result.kv.start, result.kv.num_tokens) != (0, result.num_tokens):
            return "its cache is not of its tokens"
        for chunk in covered:
            expected = self._expected(chunk, result.kv, request)
            if not _are_equal(result.kv.slice(chunk.start, chunk.stop), expected):
                return f"tokens {chunk.start} to {chunk.stop} are not those of {chunk.level!r}"
        return ""

    def _expected(self, chunk: LoadedChunk, kv: KVCache, request: Request) -> KVCache:
        if chunk.level == TEXT:
            past = kv.slice(0, chunk.start) if chunk.start else None
            return self.model.compute(request.tokens[chunk.start : chunk.stop], past=past)
        entry = next(one for one in request.manifest.chunks if one.start == chunk.start)
        key = next(stored.key for stored in entry.objects if stored.level == chunk.level)
        return self.decoded[key].slice(0, chunk.stop - chunk.start)


def _are_equal(one: KVCache, other: KVCache) -> bool:
    """To the bit, signs of zeros included."""
    return all(
        a.dtype == b.dtype and torch.equal(a.view(torch.int16), b.view(torch.int16))
        for a, b in zip(one.planes(), other.planes(), strict=True)
    )


def prepare(store: Store) -> Truth:
    """Save the contexts, and decode what came to lie in the store."""
    model = CausalModel()
    truth = Truth(model, [])
    sample = model.kv(_tokens(7, 512))
    profiles = (plain_profile(sample), transform_profile(sample))
    for seed, (length, profile) in enumerate(product(LENGTHS, profiles)):
        tokens = _tokens(seed, length)
        manifest = save(
            model.kv(tokens),
            tokens=tokens,
            store=store,
            profile=profile,
            chunk_tokens=CHUNK_TOKENS,
            fingerprint=FINGERPRINT,
        )
        decode_all(truth, manifest, tokens, store, profile)
        inner = length - length % 64
        for asked in (tokens, tokens + _tokens(99, 200), tokens[:inner], tokens[: inner + 1]):
            found = load(asked, store=store, profile=profile, level="low", fingerprint=FINGERPRINT)
            truth.requests.append(Request(asked, profile, manifest, found.num_tokens))
    return truth


def _tokens(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
    return drawn


def decode_all(
    truth: Truth,
    manifest: Manifest,
    tokens: Sequence[int],
    store: Store,
    profile: Profile | None,
) -> None:
    """Decode every object of a stored context."""
    for entry in manifest.chunks:
        for stored in entry.objects:
            data = read(store, stored.key)
            coded = open_chunk(data, entry=entry, level=stored.level, fingerprint=FINGERPRINT)
            own = tokens[entry.start : entry.stop]
            truth.decoded[stored.key] = decode_chunk(coded, profile=profile, tokens=own)
