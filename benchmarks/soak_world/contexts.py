"""Contexts of a small model, and what every level of them must decode to."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cachegen.bitstream.manifest import Manifest, manifest_key
from cachegen.codec.profile import Profile
from cachegen.contexts.save import save
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.result import LoadResult
from cachegen.store import Store, open_store
from faults.model import FINGERPRINT, CausalModel
from faults.profiles import VOCABULARY, plain_profile
from faults.truth import CHUNK_TOKENS, Request, Truth, decode_all

# Those of one beginning share chunks, and are lossless, so that it does not matter who coded them.
_SHARED = (256, 330, 512, 700)
_ALONE = (150, 330, 600)


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A context that is saved and loaded again and again.

    Attributes:
        request: its tokens, and what is stored of them.
        kv: its cache.
        levels: what it is stored at.
    """

    request: Request
    kv: KVCache
    levels: tuple[str, ...]

    @property
    def manifest_key(self) -> str:
        return manifest_key(self.request.manifest.context_id)

    def save(self, store: Store, **options) -> Manifest:
        """Save it."""
        return save(
            self.kv,
            tokens=self.request.tokens,
            store=store,
            profile=self.request.profile,
            levels=self.levels,
            chunk_tokens=CHUNK_TOKENS,
            fingerprint=FINGERPRINT,
            **options,
        )

    def load(self, store: Store, **options) -> LoadResult:
        """Load it."""
        options = {"profile": self.request.profile, "fingerprint": FINGERPRINT} | options
        return load(self.request.tokens, store=store, **options)


def make_contexts(seed: int) -> tuple[Truth, list[Context]]:
    """The contexts of a tenant, every object of them decoded once."""
    truth, here = Truth(CausalModel(), []), open_store("memory:")
    profile = plain_profile(truth.model.kv(_tokens(7, 512)))
    contexts = [
        *(_context(truth, here, _tokens(seed, length), None) for length in _SHARED),
        *(_context(truth, here, _tokens(seed + 1 + length, length), profile) for length in _ALONE),
    ]
    return truth, contexts


def _context(truth: Truth, here: Store, tokens: list[int], profile: Profile | None) -> Context:
    levels = ("lossless",) if profile is None else ("medium", "lossless")
    kv = truth.model.kv(tokens)
    manifest = save(
        kv,
        tokens=tokens,
        store=here,
        profile=profile,
        levels=levels,
        chunk_tokens=CHUNK_TOKENS,
        fingerprint=FINGERPRINT,
    )
    decode_all(truth, manifest, tokens, here, profile)
    return Context(Request(tokens, profile, manifest, len(tokens)), kv, levels)


def _tokens(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)
