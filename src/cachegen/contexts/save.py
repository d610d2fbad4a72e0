"""`save`: cuts a context's keys and values into chunks and stores them at every level."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Unpack

from cachegen.bitstream.identity import (
    Identity,
    Ids,
    PrefixKey,
    Tokens,
    tokens_from_bytes,
    tokens_to_bytes,
)
from cachegen.bitstream.manifest import (
    ALL,
    ChunkEntry,
    Manifest,
    StoredObject,
    layers_by_kind,
    profile_key,
    tokens_key,
)
from cachegen.codec.codecs import codec_of
from cachegen.codec.levels import EXACT_LEVELS
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.rung import check_tokens
from cachegen.contexts.chunking import PlannedObject, plan_chunks, plan_kinds, plan_levels
from cachegen.contexts.encoding import Encoder
from cachegen.contexts.forking import survive_forks
from cachegen.contexts.manifests import (
    manifest_parent,
    prefixes_to_publish,
    publish,
    smallest_key,
)
from cachegen.contexts.objects import (
    adopt,
    check_digest,
    open_chunk,
    put_or_adopt,
    read_stored_manifest,
)
from cachegen.errors import BitstreamError, KeyNotFound
from cachegen.kvcache import KVCache
from cachegen.store import Store

# Of an object beside its coded values: the header (1 MiB at most, FORMAT.md) and tables, and for
# every value of a token the statistics that it carries itself (5 bytes now). Arbitrary: 8 to 64
# MiB, and 8 to 64 bytes, do.
_ROOM_BYTES, _STATISTICS_BYTES = 16 << 20, 16


def save(
    kv: KVCache,
    *,
    tokens: Tokens,
    store: Store,
    profile: Profile | None = None,
    rope: RopeMap | None = None,
    levels: Sequence[str] | None = None,
    chunk_tokens: int = 1536,  # the length that benchmarks/rate_*.py and memory.py measure
    windows: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
    **identity: Unpack[Identity],
) -> Manifest:
    """Store the cache of a context, and return its manifest.

    Chunks already stored, by any context with the same beginning, are not encoded again. A cache
    with a layer that holds only the last tokens is stored in one piece, and found only by exactly
    its tokens.

    Args:
        kv: the cache of all tokens; or of the last ones, if a chunk of a stored context ends at its
            start.
        tokens: the whole context, up to the cache's end.
        store: the store to write to.
        profile: statistics of the model; stored too. Without one every chunk carries its own.
        rope: without a profile, how keys are rotated; None if unknown.
        levels: names; by default the profile's ladder and `lossless`, without a profile the
            default level and `lossless`.
        chunk_tokens: chunks end at the multiples of this, itself a multiple of 64.
        windows: for every layer, how many tokens a token attends to, itself included; 0 for all
            before it. Layers of equal windows become separate objects, and a load fetches only
            those that it needs; not at levels whose profile mixes them, or is `plain`.
        progress: called with (objects done, objects in total).
        **identity: ``fingerprint``, ``salt`` and ``extra`` of the context (see `Identity`);
            ``exact=False`` if `kv` was computed on top of lossily loaded KV. It is then found only
            by loads with ``exact=False``, and not stored at `lossless` and `raw`.

    Raises:
        ValueError: tokens, levels or sizes do not fit together.
        ProfileMismatch: the profile is for another geometry.
        StoreError: the store fails; no reader then takes the stored part for the whole.
    """
    survive_forks()
    _check_tokens(kv, tokens)
    known = tokens_from_bytes(tokens_to_bytes(tokens))
    prefix_key = PrefixKey(**identity, complete=kv.is_complete)
    fingerprint, exact = prefix_key.fingerprint, prefix_key.exact
    ids = Ids(known, prefix_key)
    wanted = plan_levels(profile, levels, exact=exact)
    kinds = plan_kinds(kv, profile, wanted, windows)
    encoder = Encoder(kv, known.tolist(), profile, rope, fingerprint, layers_by_kind(windows))
    chunks = plan_chunks(kv, ids, chunk_tokens=chunk_tokens)
    prefix, known_windows = (
        _stored_prefix(store, known[: kv.start], prefix_key) if kv.start else ((), ())
    )
    of_chunk = [(*level, kind) for level in wanted.items() for kind in kinds[level[0]]]
    planned = [PlannedObject(chunk, *object_) for chunk in chunks for object_ in of_chunk]
    if profile is not None:
        _store_companion(store, profile_key(profile.hash), profile.reader_bytes)
    stored = _store_objects(encoder, store, planned, prefix, progress)
    filled = [replace(c, objects=tuple(next(stored) for _ in of_chunk)) for c in chunks]
    stored_chunks = (*prefix, *filled)
    is_split = any(o.layers != ALL for chunk in stored_chunks for o in chunk.objects)
    whole = Manifest(
        ids.of(kv.stop),
        fingerprint,
        kv.stop,
        exact,
        stored_chunks,
        windows=tuple(windows or known_windows) if is_split else (),
    )
    key = tokens_key(whole.context_id)
    _store_companion(store, key, known.tobytes(), parent=smallest_key(whole.chunks[-1]))
    parts = [whole]
    if kv.is_complete:
        parts = prefixes_to_publish(whole, first_new=len(prefix), ids=ids)
    return [publish(store, part, parent=manifest_parent(part, whole)) for part in parts][-1]


def _check_tokens(kv: KVCache, tokens: Tokens) -> None:
    if kv.num_tokens == 0:
        raise ValueError("expected a cache of at least one token, got an empty one")
    if len(tokens) != kv.stop:
        raise ValueError(
            f"expected the {kv.stop} tokens of the context up to the cache's end, got "
            f"{len(tokens)} (a cache that tokens were dropped from, by H2O or SnapKV, cannot be "
            "stored: save it before it is pruned)"
        )
    if kv.start and not kv.is_complete:
        raise ValueError("a cache whose layers hold only the last tokens must start at token 0")


def _stored_prefix(
    store: Store, tokens: Tokens, prefix_key: PrefixKey
) -> tuple[tuple[ChunkEntry, ...], tuple[int, ...]]:
    """Chunks and windows of the stored context of exactly these tokens; an inexact cache may
    continue an exact one."""
    for known in dict.fromkeys((prefix_key, replace(prefix_key, exact=True))):
        context_id = Ids(tokens, known).of(len(tokens))
        try:
            stored = read_stored_manifest(store, context_id, fingerprint=prefix_key.fingerprint)
        except (KeyNotFound, BitstreamError):
            continue
        chunks = tuple(_offered(chunk, exact=prefix_key.exact) for chunk in stored.chunks)
        if chunks[-1].stop == len(tokens) and all(chunk.objects for chunk in chunks):
            return chunks, stored.windows
    raise ValueError(
        f"the cache starts at token {len(tokens)}, but no stored context has a chunk that ends "
        "there; save the cache from token 0 on"
    )


def _offered(chunk: ChunkEntry, *, exact: bool) -> ChunkEntry:
    kept = (stored for stored in chunk.objects if exact or stored.level not in EXACT_LEVELS)
    return replace(chunk, objects=tuple(kept))


def _store_objects(
    encoder: Encoder,
    store: Store,
    planned: list[PlannedObject],
    prefix: tuple[ChunkEntry, ...],
    progress: Callable[[int, int], None] | None,
) -> Iterator[StoredObject]:
    """Store each planned object, and yield what is then stored, in order."""
    before = prefix[-1].objects if prefix else ()
    parents = {(stored.level, stored.profile_hash): stored.key for stored in before}
    sizes = store.lookup([item.key for item in planned])
    for number, (item, size_bytes) in enumerate(zip(planned, sizes, strict=True), 1):
        chain = (item.level, item.profile_hash)
        parent = parents.get(chain, item.profile_key)
        is_there = size_bytes is not None
        data = _store_object(encoder, store, item, is_there=is_there, parent=parent)
        parents[chain] = item.key
        if progress is not None:
            progress(number, len(planned))
        digest = hashlib.sha256(data).digest()
        yield StoredObject(item.level, item.key, len(data), digest, item.profile_hash, item.layers)


def _store_object(
    encoder: Encoder, store: Store, item: PlannedObject, *, is_there: bool, parent: str | None
) -> bytes:
    def check(data: bytes) -> None:
        chunk = open_chunk(
            data,
            entry=item.chunk,
            level=item.level,
            fingerprint=encoder.fingerprint,
            layers=encoder.kinds.get(item.layers),
        )
        if codec_of(chunk.codec).needs_tokens:
            check_tokens(chunk, encoder.tokens_of(item))

    most = _most_bytes(encoder.kv, item)
    found = adopt(store, item.key, max_bytes=most, check=check) if is_there else None
    if found is not None:
        return found
    data = encoder.encode(item)
    most = max(most, len(data))
    return put_or_adopt(store, item.key, data, max_bytes=most, check=check, parent=parent)


def _most_bytes(kv: KVCache, item: PlannedObject) -> int:
    """More than any encoding of a chunk of this cache takes, whoever made it."""
    geometry = kv.geometry
    raw_bytes = geometry.values_per_token * geometry.dtype.itemsize * item.chunk.num_tokens
    return raw_bytes + raw_bytes // 4 + _STATISTICS_BYTES * geometry.values_per_token + _ROOM_BYTES


def _store_companion(store: Store, key: str, data: bytes, *, parent: str | None = None) -> None:
    """Store token ids or a profile, which a reader may need besides chunks."""
    expected = hashlib.sha256(data).digest()

    def check(found: bytes) -> None:
        check_digest(hashlib.sha256(found).digest(), expected, field=key)

    put_or_adopt(store, key, data, max_bytes=len(data), check=check, parent=parent)
