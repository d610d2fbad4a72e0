"""Looks up which tokens a store has, and at which levels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.contexts.find_prefix import Prefix, find_prefix
from cachegen.contexts.objects import describe_failure, fetch_tokens
from cachegen.contexts.options import choose_level, options_of, rank_of
from cachegen.contexts.outcome import LoadedChunk
from cachegen.contexts.prefix_key import PrefixKey
from cachegen.contexts.profiles import Profiles
from cachegen.errors import CacheGenError, StoreError
from cachegen.policy.controller import ChunkState
from cachegen.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A stored prefix, before anything of it is loaded.

    Attributes:
        chunks: as controllers see them; the last one may end inside its entry.
        entries: the manifest's entries of the chunks; fewer if the last ones cannot be fetched.
        default_rank: rank of the default level.
        exact: whether the KV was computed without lossily loaded KV before it.
        lost: token ranges behind the prefix whose manifests are stored but unreadable.
        tail: tokens of the last entry behind the wanted ones, or why they could not be read.
        errors: (chunk, reason) for levels that cannot be fetched.
        windows: attention windows of the layers, as in the manifest.
    """

    chunks: tuple[ChunkState, ...]
    entries: tuple[ChunkEntry, ...]
    default_rank: int
    exact: bool
    lost: tuple[LoadedChunk, ...]
    tail: list[int] | CacheGenError = field(default_factory=list)
    errors: tuple[tuple[int, str], ...] = ()
    windows: tuple[int, ...] = ()

    @classmethod
    def nothing(cls, num_tokens: int, error: str) -> Found:
        """A result for tokens that the store could not be asked for."""
        chunks = (ChunkState(0, num_tokens, ()),)
        return cls(chunks, (), 0, True, (), errors=((0, error),))

    @property
    def num_tokens(self) -> int:
        """Number of tokens covered."""
        return self.chunks[-1].stop if self.chunks else 0

    def with_lost(self) -> Found:
        """The same with lost ranges as chunks without options, for a model to recompute."""
        chunks = (ChunkState(chunk.start, chunk.stop, ()) for chunk in self.lost)
        errors = ((index, c.reason) for index, c in enumerate(self.lost, len(self.chunks)))
        return replace(
            self,
            chunks=(*self.chunks, *chunks),
            lost=(),
            errors=(*self.errors, *errors),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A store's answer.

    Attributes:
        prefix: the longest stored prefix.
        ladder: the profile whose levels it is stored at.
        tail: as in `Found`.
    """

    prefix: Prefix
    ladder: Profile | None
    tail: list[int] | CacheGenError


def look_up(
    tokens: NDArray[np.uint32], prefix_key: PrefixKey, *, store: Store, profiles: Profiles
) -> Stored:
    """Read from the store all that is needed before chunks are fetched.

    Exact KV is preferred if inexact KV is accepted too.

    Raises:
        StoreError: the store fails, in whatever way.
    """
    try:
        prefix = find_prefix(tokens, store=store, prefix_keys=_accepted(prefix_key))
        if prefix.manifest is None:
            return Stored(prefix, None, [])
        profiles.read_for(prefix.manifest)
        ladder = profiles.ladder(prefix.manifest)
        return Stored(prefix, ladder, _tail(prefix.manifest, ladder, store))
    except CacheGenError:
        raise
    except Exception as error:  # a store's own mistake costs the store, not the load
        raise StoreError(f"{store.url}: {type(error).__name__}: {error}") from error


def found_in(stored: Stored, profiles: Profiles, level: str | None) -> Found:
    """The chunks of a stored prefix with their options.

    Raises:
        ValueError: no chunk is stored at the level.
    """
    manifest, ladder = stored.prefix.manifest, stored.ladder
    if manifest is None:
        return Found((), (), 0, True, stored.prefix.lost)
    return Found(
        chunks=tuple(_state(c, ladder, profiles, manifest.num_tokens) for c in manifest.chunks),
        entries=manifest.chunks,
        default_rank=rank_of(choose_level(manifest, ladder, level), ladder),
        exact=manifest.exact,
        lost=stored.prefix.lost,
        tail=stored.tail,
        errors=_errors(manifest, profiles),
        windows=manifest.windows,
    )


def _errors(manifest: Manifest, profiles: Profiles) -> tuple[tuple[int, str], ...]:
    """(chunk, reason) for levels whose profile cannot be read."""
    return tuple(
        (index, f"{stored.level}: {describe_failure(failure)}")
        for index, chunk in enumerate(manifest.chunks)
        for stored in chunk.objects
        if (failure := _failure(stored, profiles)) is not None
    )


def _failure(stored: StoredObject, profiles: Profiles) -> CacheGenError | None:
    """Why an object's profile cannot be read; None if it can."""
    try:
        profiles.get(stored.profile_hash)
    except CacheGenError as error:
        return error
    return None


def _tail(manifest: Manifest, ladder: Profile | None, store: Store) -> list[int] | CacheGenError:
    """Tokens of the last chunk behind the prefix, if decoding may need them."""
    last = manifest.chunks[-1]
    if last.stop == manifest.num_tokens or not _may_be_predicted(last, ladder):
        return []
    try:
        return fetch_tokens(store, last)[manifest.num_tokens - last.start :]
    except CacheGenError as error:
        return error


def _may_be_predicted(chunk: ChunkEntry, ladder: Profile | None) -> bool:
    """Whether decoding some level of a chunk may need its tokens."""
    known_not_to = {NO_PROFILE}
    if ladder is not None and not ladder.needs_tokens:
        known_not_to.add(ladder.hash)
    return any(stored.profile_hash not in known_not_to for stored in chunk.objects)


def _accepted(prefix_key: PrefixKey) -> list[PrefixKey]:
    """The prefix keys to look up, better ones first."""
    exactness = (True,) if prefix_key.exact else (True, False)
    return [
        PrefixKey(
            prefix_key.fingerprint,
            prefix_key.salt,
            prefix_key.extra,
            exact=is_exact,
            complete=is_complete,
        )
        for is_exact, is_complete in product(exactness, (True, False))
    ]


def _state(
    chunk: ChunkEntry, ladder: Profile | None, profiles: Profiles, num_tokens: int
) -> ChunkState:
    usable = (stored for stored in chunk.objects if _failure(stored, profiles) is None)
    options = options_of(replace(chunk, objects=tuple(usable)), ladder)
    return ChunkState(chunk.start, min(chunk.stop, num_tokens), options)
