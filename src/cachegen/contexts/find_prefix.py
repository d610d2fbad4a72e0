"""The longest stored prefix of a context."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cachegen.bitstream.identity import LINK_TOKENS, Tokens
from cachegen.bitstream.manifest import Manifest, manifest_key
from cachegen.contexts.manifests import read_stored_manifest
from cachegen.contexts.objects import describe_failure
from cachegen.contexts.outcome import LoadedChunk
from cachegen.contexts.prefix_key import Ids, PrefixKey
from cachegen.contexts.time_limit import begun
from cachegen.errors import BitstreamError, KeyNotFound, StoreDenied, StoreError, StoreTimeout
from cachegen.store import Store

Answer = TypeVar("Answer")
# As often, and after as long, as `loading/retries.py` asks a failing store for an object.
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


def find_prefix(tokens: Tokens, *, store: Store, prefix_keys: list[PrefixKey]) -> Prefix:
    """Find the longest stored prefix; of equally long ones, that of the earlier key.

    The manifest of all tokens is requested first: a context stored as a whole takes one round trip.
    A lookup of all prefixes follows 10 ms later, or as soon as that manifest is known to be absent.

    Raises:
        StoreError: the store fails.
    """
    candidates = [found for prefix_key in prefix_keys for found in _candidates(tokens, prefix_key)]
    keys = [manifest_key(candidate.context_id) for candidate in candidates]
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
    there = [c for c, s in zip(candidates, sizes.result(), strict=True) if s is not None]
    if longest in there:
        wait([whole])
    lost: list[tuple[int, str]] = []
    for candidate in sorted(there, key=lambda c: -c.num_tokens):
        if candidate is longest and _was_had(whole):
            return _prefix(whole.result(), lost)
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
