"""One load under way: the cache so far, what became of each token range, the time spent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cachegen.bitstream.manifest import EXACT_LEVELS, ChunkEntry, Manifest, StoredObject
from cachegen.codec.codec import decode_chunk
from cachegen.codec.levels import TEXT
from cachegen.codec.profile import Profile
from cachegen.errors import (
    BitstreamError,
    KeyNotFound,
    ProfileMismatch,
    StoreError,
    StoreTimeout,
    TokensMismatch,
)
from cachegen.kvcache import KVCache
from cachegen.store import Store
from cachegen.stream.assembly import Assembly
from cachegen.stream.objects import describe_failure, fetch_tokens, open_chunk
from cachegen.stream.preference import in_order_of_preference
from cachegen.stream.prefetch import Fetched, fetch_ahead, fetch_timed
from cachegen.stream.profiles import Profiles
from cachegen.stream.result import LoadedChunk, LoadResult
from cachegen.stream.timing import Clock

Recompute = Callable[..., KVCache]


@dataclass(slots=True, eq=False)
class Run:
    """Appends chunk after chunk, and ends early where one cannot be had.

    Attributes:
        tokens: uint32 (tokens,): those to load.
        store: where from.
        profiles: to decode with.
        recompute: the way out when a chunk cannot be loaded; see `load`.
        fingerprint: the model.
        device: where the cache is to live.
        clock: started by the caller.
    """

    tokens: NDArray[np.uint32]
    store: Store
    profiles: Profiles
    recompute: Recompute | None
    fingerprint: bytes
    device: torch.device | str
    clock: Clock
    _assembly: Assembly = field(init=False)
    _chunks: list[LoadedChunk] = field(init=False, default_factory=list)
    _size_bytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Make room for the tokens."""
        self._assembly = Assembly(len(self.tokens))

    def load(self, manifest: Manifest, *, level: str, profile: Profile | None) -> None:
        """Load every chunk at a level of this profile's ladder, or as near to it as possible."""
        options = [
            in_order_of_preference(chunk, level=level, profile=profile) for chunk in manifest.chunks
        ]
        with closing(fetch_ahead(self.store, [best for best, *_ in options])) as fetches:
            for chunk, objects, first in zip(manifest.chunks, options, fetches, strict=True):
                self._load_or_replace(chunk, objects, first, level=level)
                if self._chunks[-1].level is None or self._chunks[-1].stop == len(self.tokens):
                    return

    def replace(self, start: int, stop: int, *, reason: str) -> None:
        """Recompute a range; without a way to do so record that the result ends before it."""
        if self.recompute is None:
            self._chunks.append(LoadedChunk(start, len(self.tokens), None, reason=reason))
            return
        with self.clock.measure("recompute"):
            part = self.recompute(self.tokens[start:stop].tolist(), past=self._assembly.kv())
        misfit = self._assembly.misfit(part, stop=stop)
        if misfit:
            raise ValueError(f"`recompute` gave a cache that does not fit: {misfit}")
        self._assembly.append(part.to(self.device))
        self._chunks.append(LoadedChunk(start, stop, TEXT, reason=reason))

    def result(self, *, exact: bool, lost: tuple[LoadedChunk, ...]) -> LoadResult:
        """What there is now; ``exact`` and ``lost`` tell what is known of the stored prefix."""
        return LoadResult(
            kv=self._assembly.kv(),
            num_tokens=self._assembly.num_tokens,
            exact=exact and all(c.level in (*EXACT_LEVELS, TEXT, None) for c in self._chunks),
            total_s=self.clock.total_s(),
            lookup_s=self.clock.spent_s("lookup"),
            fetch_s=self.clock.spent_s("fetch"),
            decode_s=self.clock.spent_s("decode"),
            recompute_s=self.clock.spent_s("recompute"),
            size_bytes=self._size_bytes,
            chunks=(*self._chunks, *lost),
        )

    def _load_or_replace(
        self, chunk: ChunkEntry, objects: list[StoredObject], first: Future[Fetched], *, level: str
    ) -> None:
        """A store that timed out is not asked again: whatever is left is replaced."""
        stop = min(chunk.stop, len(self.tokens))
        try:
            reason = self._load_chunk(chunk, objects, first, level=level)
        except StoreError as error:
            reason = describe_failure(error)
            stop = len(self.tokens) if isinstance(error, StoreTimeout) else stop
        if reason:
            self.replace(chunk.start, stop, reason=reason)

    def _load_chunk(
        self, chunk: ChunkEntry, objects: list[StoredObject], first: Future[Fetched], *, level: str
    ) -> str:
        """Append a chunk at the first level that works; or say why none does.

        Raises:
            StoreError: the store fails, so that other levels need not be tried.
        """
        reasons = [] if objects[0].level == level else [f"{level}: not stored"]
        for stored in objects:
            try:
                profile = self.profiles.get(stored.profile_hash)
                is_first = stored is objects[0]
                fetched = first.result() if is_first else fetch_timed(self.store, stored)
                self._append(fetched, chunk, stored, profile)
            except (KeyNotFound, BitstreamError, ProfileMismatch, TokensMismatch) as error:
                reasons.append(f"{stored.level}: {describe_failure(error)}")
            else:
                self._record(chunk, stored, reason="; ".join(reasons))
                return ""
        return "; ".join(reasons)

    def _append(
        self, fetched: Fetched, chunk: ChunkEntry, stored: StoredObject, profile: Profile | None
    ) -> None:
        self._size_bytes += len(fetched.data)
        self.clock.add("fetch", fetched.seconds)
        with self.clock.measure("decode"):
            coded = open_chunk(
                fetched.data, entry=chunk, level=stored.level, fingerprint=self.fingerprint
            )
        tokens = self._own_tokens(chunk) if coded.codec == "transform" else None
        with self.clock.measure("decode"):
            part = decode_chunk(coded, profile=profile, tokens=tokens)
            self._assembly.append(self._fitting(part).to(self.device))

    def _own_tokens(self, chunk: ChunkEntry) -> list[int]:
        """All tokens of a chunk, also those behind the wanted ones."""
        known: list[int] = self.tokens[chunk.start : chunk.stop].tolist()
        if len(known) == chunk.num_tokens:
            return known
        with self.clock.measure("fetch"):
            return known + fetch_tokens(self.store, chunk)[len(known) :]

    def _fitting(self, part: KVCache) -> KVCache:
        """The tokens of a decoded chunk that are wanted."""
        misfit = self._assembly.misfit(part)
        if misfit:
            raise BitstreamError(misfit, field="geometry")
        return part.slice(0, min(part.stop, len(self.tokens)) - part.start)

    def _record(self, chunk: ChunkEntry, stored: StoredObject, *, reason: str) -> None:
        stop = min(chunk.stop, len(self.tokens))
        loaded = LoadedChunk(chunk.start, stop, stored.level, stored.size_bytes, reason)
        self._chunks.append(loaded)
