"""From an object's bytes to the cache of a token range, checked at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cachegen.bitstream.manifest import ChunkEntry, StoredObject
from cachegen.codec.codec import decode_chunk
from cachegen.kvcache import KVCache
from cachegen.store import Store
from cachegen.stream.objects import fetch_tokens, open_chunk
from cachegen.stream.profiles import Profiles


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Decodes chunks of one context.

    Attributes:
        tokens: uint32 (tokens,): those to load.
        store: where companions of the chunks are.
        profiles: to decode with.
        fingerprint: the model.
    """

    tokens: NDArray[np.uint32]
    store: Store
    profiles: Profiles
    fingerprint: bytes

    def decode(self, data: bytes, entry: ChunkEntry, stored: StoredObject) -> KVCache:
        """The wanted tokens of a chunk.

        Raises:
            BitstreamError: damaged bytes, or another chunk's.
            ProfileMismatch, TokensMismatch: coded for another model, or for other tokens.
            KeyNotFound, StoreError: a companion cannot be had.
        """
        profile = self.profiles.get(stored.profile_hash)
        coded = open_chunk(data, entry=entry, level=stored.level, fingerprint=self.fingerprint)
        tokens = self._tokens_of(entry) if coded.codec == "transform" else None
        part = decode_chunk(coded, profile=profile, tokens=tokens)
        return part.slice(0, min(part.stop, len(self.tokens)) - part.start)

    def _tokens_of(self, entry: ChunkEntry) -> list[int]:
        """All tokens of a chunk, also those behind the wanted ones."""
        known: list[int] = self.tokens[entry.start : entry.stop].tolist()
        if len(known) == entry.num_tokens:
            return known
        return known + fetch_tokens(self.store, entry)[len(known) :]
