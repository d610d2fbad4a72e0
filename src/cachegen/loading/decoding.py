"""Decodes an object's bytes into the cache of a token range, checked at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cachegen.bitstream.kinds import layers_by_kind
from cachegen.bitstream.manifest import ChunkEntry, StoredObject
from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import codec_of
from cachegen.contexts.objects import open_chunk
from cachegen.contexts.profiles import Profiles
from cachegen.errors import BitstreamError, CacheGenError
from cachegen.loading.assembly import Assembly
from cachegen.store import Buffer


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Decodes chunks of one context.

    Attributes:
        tokens: uint32 (tokens,): those to load.
        tail: the last chunk's tokens behind them, or why they could not be read.
        profiles: to decode with.
        fingerprint: SHA-256 that identifies the model.
        windows: attention windows of its layers, as in the manifest.
    """

    tokens: NDArray[np.uint32]
    tail: list[int] | CacheGenError
    profiles: Profiles
    fingerprint: bytes
    windows: tuple[int, ...] = ()

    def decode(
        self,
        data: Buffer,
        entry: ChunkEntry,
        stored: StoredObject,
        *,
        assembly: Assembly,
        device: torch.device | str,
    ) -> None:
        """Decode the wanted tokens of a chunk, or of some of its layers, into ``assembly``.

        After an error their place there may hold anything.

        Raises:
            BitstreamError: the bytes are damaged, another chunk's, or of another geometry.
            ProfileMismatch, TokensMismatch: encoded for another model, or for other tokens.
            CacheGenError: the profile or the chunk's other tokens cannot be read.
        """
        profile = self.profiles.get(stored.profile_hash)
        layers = layers_by_kind(self.windows).get(stored.layers)
        coded = open_chunk(
            data, entry=entry, level=stored.level, fingerprint=self.fingerprint, layers=layers
        )
        tokens = self._tokens_of(entry) if codec_of(coded.codec).needs_tokens else None
        room = None
        if set(coded.tokens_held) == {entry.num_tokens}:
            room = assembly.room(coded.geometry, start=entry.start, stop=entry.stop, layers=layers)
        part = decode_chunk(coded, profile=profile, tokens=tokens, out=room)
        if room is not None:
            return
        stop = min(entry.stop, len(self.tokens))
        part = part.slice(0, stop - entry.start)
        misfit = assembly.misfit(part, start=entry.start, stop=stop, layers=layers)
        if misfit:
            raise BitstreamError(misfit, field="geometry")
        assembly.place(part.to(device), layers)

    def _tokens_of(self, entry: ChunkEntry) -> list[int]:
        """All tokens of a chunk, including those behind the wanted ones."""
        known: list[int] = self.tokens[entry.start : entry.stop].tolist()
        if len(known) == entry.num_tokens:
            return known
        if isinstance(self.tail, CacheGenError):
            raise self.tail
        return known + self.tail
