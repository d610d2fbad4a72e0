"""Looks up the longest stored prefix of a context, and the levels that it is stored at."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.bitstream.identity import LINK_TOKENS, Ids, PrefixKey, Tokens
from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject, manifest_key
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.contexts.needs import choose_level, options_of, rank_of
from cachegen.contexts.objects import Profiles, describe_failure, fetch_tokens, read_stored_manifest
from cachegen.contexts.outcome import LoadedChunk
from cachegen.contexts.time_limit import Answer, begun
from cachegen.errors import (
    BitstreamError,
    CacheGenError,
    KeyNotFound,
    StoreDenied,
    StoreError,
    StoreTimeout,
)
from cachegen.policy.controller import ChunkState
from cachegen.store import Store

# As often, and after as long, as `loading/ledger.py` asks a failing store for an object.
_ATTEMPTS = 3
_WAIT_S = 0.05
# Above the 4-5 ms of a lookup on loopback (docs/LOG.md, 2026-11-21): near stores are asked once.
_HEAD_START_S = 0.01


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is stored for the first tokens of a context.

    Attributes:
        manifest: of the longest stored prefix; None if there is none.
        lost: token ranges behind it whose manifests are stored but unreadable.
    """

    manifest: Manifest | None
    lost: tuple[LoadedChunk, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    num_tokens: int
    context_id: bytes
    prefix_key: PrefixKey


def find_prefix(
    tokens: Tokens, *, store: Store, prefix_keys: list[PrefixKey], expects_whole: bool = True
) -> Prefix:
    """Find the longest stored prefix; of equally long ones, that of the earlier key.

    The manifest of all tokens is requested first: a context stored as a whole takes one round trip.
    A lookup of all prefixes follows 10 ms later, or as soon as that manifest is known to be absent.
    Who does not expect the whole to be stored looks all up at once.

    Raises:
        StoreError: the store fails.
    """
    candidates = [found for prefix_key in prefix_keys for found in _candidates(tokens, prefix_key)]
    keys = [manifest_key(candidate.context_id) for candidate in candidates]
    if not expects_whole:
        return _longest(store, candidates, _again(partial(store.lookup, keys)))
    longest = next(c for c in candidates if c.num_tokens == len(tokens))
    whole = begun(partial(_read, store, longest))
    wait([whole], _HEAD_START_S)
    if _was_had(whole):
        return _prefix(whole.result(), [])
    sizes = begun(partial(_again, partial(store.lookup, keys)))
    if not whole.done():
        either: list[Future[Any]] = [whole, sizes]
        wait(either, return_when=FIRST_COMPLETED)
    if _was_had(whole):
        return _prefix(whole.result(), [])
    found = sizes.result()
    if found[candidates.index(longest)] is not None:
        wait([whole])
        if _was_had(whole):
            return _prefix(whole.result(), [])
    return _longest(store, candidates, found)


def _longest(store: Store, candidates: list[_Candidate], sizes: list[int | None]) -> Prefix:
    """Of the candidates that are stored, the longest that can be read."""
    there = [c for c, s in zip(candidates, sizes, strict=True) if s is not None]
    lost: list[tuple[int, str]] = []
    for candidate in sorted(there, key=lambda c: -c.num_tokens):
        try:
            return _prefix(_again(partial(_read, store, candidate)), lost)
        except (KeyNotFound, BitstreamError) as error:
            lost.append((candidate.num_tokens, describe_failure(error)))
    return _prefix(None, lost)


def _was_had(manifest: Future[Manifest]) -> bool:
    """Whether the manifest was read; if not, the lookup and a second read tell why."""
    return manifest.done() and manifest.exception() is None


def _candidates(tokens: Tokens, prefix_key: PrefixKey) -> Iterator[_Candidate]:
    """Every prefix that may be stored; an incomplete cache only as a whole."""
    ids, num_tokens = Ids(tokens, prefix_key), len(tokens)
    boundaries = range(LINK_TOKENS, num_tokens, LINK_TOKENS) if prefix_key.complete else ()
    for length in (*boundaries, num_tokens):
        yield _Candidate(length, ids.of(length), prefix_key)


def _again(ask: Callable[[], Answer]) -> Answer:
    """Call, and repeat after failures that may pass."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return ask()
        except (KeyNotFound, StoreDenied, StoreTimeout):
            raise
        except (BitstreamError, StoreError):
            time.sleep(_WAIT_S * random.uniform(0.5, 1.5))
    return ask()


def _read(store: Store, candidate: _Candidate) -> Manifest:
    manifest = read_stored_manifest(
        store, candidate.context_id, fingerprint=candidate.prefix_key.fingerprint
    )
    if (manifest.num_tokens, manifest.exact) != (candidate.num_tokens, candidate.prefix_key.exact):
        raise BitstreamError(
            f"expected {candidate.num_tokens} tokens, exact {candidate.prefix_key.exact}; "
            f"got {manifest.num_tokens}, {manifest.exact}",
            field=manifest_key(candidate.context_id),
        )
    return manifest


def _prefix(manifest: Manifest | None, lost: list[tuple[int, str]]) -> Prefix:
    start = manifest.num_tokens if manifest else 0
    ranges = []
    for stop, reason in sorted(lost):
        ranges.append(LoadedChunk(start, stop, None, reason=reason))
        start = stop
    return Prefix(manifest, tuple(ranges))


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
    tokens: NDArray[np.uint32],
    prefix_key: PrefixKey,
    *,
    store: Store,
    profiles: Profiles,
    expects_whole: bool = True,
) -> Stored:
    """Read from the store all that is needed before chunks are fetched.

    Exact KV is preferred if inexact KV is accepted too; ``expects_whole`` as in `find_prefix`.

    Raises:
        StoreError: the store fails, in whatever way.
    """
    try:
        prefix = find_prefix(
            tokens,
            store=store,
            prefix_keys=_accepted(prefix_key),
            expects_whole=expects_whole,
        )
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
        return fetch_tokens(store, last, start=manifest.num_tokens)
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
