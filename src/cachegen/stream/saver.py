"""`save`: a context's keys and values, cut into chunks, coded at every level, into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.format import MAX_BYTES
from cachegen.bitstream.identity import LINK_TOKENS, Tokens, tokens_from_bytes, tokens_to_bytes
from cachegen.bitstream.manifest import (
    EXACT_LEVELS,
    ChunkEntry,
    Manifest,
    StoredObject,
    object_key,
    profile_key,
    tokens_key,
)
from cachegen.codec.codec import resolve_level
from cachegen.codec.levels import LOSSLESS, UNCALIBRATED_DEFAULT
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.errors import BitstreamError, KeyNotFound
from cachegen.kvcache import KVCache
from cachegen.store import Store
from cachegen.stream.lineage import Ids, Lineage
from cachegen.stream.objects import adopt, check_digest, open_chunk, put_or_adopt
from cachegen.stream.publish import prefixes_to_publish, publish, read_stored_manifest

_CODECS_WITH_PROFILE = ("plain", "paper")


def save(
    kv: KVCache,
    *,
    tokens: Tokens,
    store: Store,
    profile: Profile | None = None,
    rope: RopeMap | None = None,
    levels: Sequence[str] | None = None,
    chunk_tokens: int = 1536,
    fingerprint: bytes,
    salt: bytes = b"",
    extra: bytes = b"",
    exact: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Store the cache of a context, and return what is stored of it.

    Chunks that are there already, from any context with the same beginning, are not coded again.
    A cache in which some layer holds only the last tokens is stored in one piece and found
    through its exact tokens only.

    Args:
        kv: the cache of all tokens; or of the last ones, where a stored context ends at its start.
        tokens: the whole context.
        store: where to.
        profile: statistics of the model; stored too. Without one every chunk carries its own.
        rope: without a profile, how keys are rotated; unknown when None.
        levels: names; by default the profile's ladder and `lossless`, without a profile the
            default level and `lossless`.
        chunk_tokens: chunks end at the multiples of this, itself a multiple of 64.
        fingerprint: SHA-256 that identifies the model.
        salt: the tenant, who sees only what was saved with the same salt.
        extra: whatever else changes the KV of equal tokens (adapters, images).
        exact: False where `kv` was computed on top of lossily loaded KV. It is then found only
            by those who ask for such, and not stored at `lossless` and `raw`.
        progress: called with (objects done, objects altogether).

    Raises:
        ValueError: tokens, levels or sizes that do not fit together.
        ProfileMismatch: the profile is for another geometry.
        StoreError: the store fails; nothing incomplete is found afterwards.
    """
    lineage = Lineage(fingerprint, salt, extra, exact, complete=kv.is_complete)
    _check_tokens(kv, tokens)
    known = tokens_from_bytes(tokens_to_bytes(tokens))
    job = _Job(kv, store, profile, rope, _level_names(profile, levels, exact=exact), lineage)
    ids = Ids(known, lineage)
    prefix = _stored_prefix(job, known)
    planned = _plan(job, ids, chunk_tokens=chunk_tokens)
    chunks = (*prefix, *_store_chunks(job, prefix, planned, progress))
    manifest = Manifest(ids.of(kv.stop), fingerprint, kv.stop, exact, chunks)
    _store_companions(job, manifest, known.tobytes())
    if not lineage.complete:
        return publish(store, manifest)
    for part in prefixes_to_publish(manifest, first_new=len(prefix), ids=ids):
        manifest = publish(store, part)
    return manifest


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What one call of `save` has to do."""

    kv: KVCache
    store: Store
    profile: Profile | None
    rope: RopeMap | None
    levels: tuple[str, ...]
    lineage: Lineage

    def profile_hash(self, level: str) -> bytes:
        """The profile that this level's bytes depend on."""
        needs = resolve_level(self.profile, level).codec in _CODECS_WITH_PROFILE
        return self.profile.hash if self.profile is not None and needs else NO_PROFILE


@dataclass(frozen=True, slots=True)
class _Planned:
    """A chunk at a level, before it is there."""

    chunk: ChunkEntry
    level: str
    profile_hash: bytes

    @property
    def key(self) -> str:
        return object_key(
            self.chunk.chunk_id,
            start=self.chunk.start,
            stop=self.chunk.stop,
            profile_hash=self.profile_hash,
            level=self.level,
        )


def _check_tokens(kv: KVCache, tokens: Tokens) -> None:
    if kv.num_tokens == 0:
        raise ValueError("expected a cache of at least one token, got an empty one")
    if len(tokens) != kv.stop:
        raise ValueError(
            f"expected the {kv.stop} tokens of the context up to the cache's end, got {len(tokens)}"
        )
    if kv.start and not kv.is_complete:
        raise ValueError("a cache whose layers hold only the last tokens must start at token 0")


def _level_names(
    profile: Profile | None, levels: Sequence[str] | None, *, exact: bool
) -> tuple[str, ...]:
    if levels is None:
        ladder = [level.name for level in profile.levels] if profile else [UNCALIBRATED_DEFAULT]
        levels = [*ladder, LOSSLESS] if exact else ladder
    if not levels:
        raise ValueError("expected at least one level, got none")
    for name in levels:
        resolve_level(profile, name)
        if not exact and name in EXACT_LEVELS:
            raise ValueError(f"KV that is not exact cannot be stored as {name!r}")
    return tuple(dict.fromkeys(levels))


def _stored_prefix(job: _Job, tokens: Tokens) -> tuple[ChunkEntry, ...]:
    """The chunks before the cache's first token, from a stored context that ends there."""
    start = job.kv.start
    if start == 0:
        return ()
    lineages = (
        [job.lineage] if job.lineage.exact else [job.lineage, replace(job.lineage, exact=True)]
    )
    for lineage in lineages:
        try:
            stored = read_stored_manifest(
                job.store,
                Ids(tokens[:start], lineage).of(start),
                fingerprint=lineage.fingerprint,
            )
        except (KeyNotFound, BitstreamError):
            continue
        if stored.chunks[-1].stop == start:
            return tuple(_without_exact_levels(chunk, job.lineage) for chunk in stored.chunks)
    raise ValueError(
        f"the cache starts at token {start}, but no stored context has a chunk that ends there; "
        "save the cache from token 0 on"
    )


def _without_exact_levels(chunk: ChunkEntry, lineage: Lineage) -> ChunkEntry:
    kept = tuple(o for o in chunk.objects if lineage.exact or o.level not in EXACT_LEVELS)
    return replace(chunk, objects=kept)


def _plan(job: _Job, ids: Ids, *, chunk_tokens: int) -> list[ChunkEntry]:
    """The chunks to be stored, without their objects."""
    if chunk_tokens <= 0 or chunk_tokens % LINK_TOKENS:
        raise ValueError(
            f"expected chunk_tokens as a multiple of {LINK_TOKENS}, got {chunk_tokens}"
        )
    kv = job.kv
    inner = range(kv.start - kv.start % chunk_tokens + chunk_tokens, kv.stop, chunk_tokens)
    edges = [kv.start, *(inner if job.lineage.complete else ()), kv.stop]
    ranges = list(zip(edges, edges[1:], strict=False))
    for start, stop in ranges:
        size_bytes = kv.slice(start - kv.start, stop - kv.start).size_bytes
        if size_bytes > MAX_BYTES:
            raise ValueError(
                f"expected chunks of at most {MAX_BYTES} bytes of cache, got {size_bytes}; "
                f"use fewer chunk_tokens than {stop - start}"
            )
    return [ChunkEntry(ids.of(stop), start, stop, ()) for start, stop in ranges]


def _store_chunks(
    job: _Job,
    prefix: tuple[ChunkEntry, ...],
    chunks: list[ChunkEntry],
    progress: Callable[[int, int], None] | None,
) -> list[ChunkEntry]:
    planned = [_Planned(c, name, job.profile_hash(name)) for c in chunks for name in job.levels]
    sizes = job.store.lookup([item.key for item in planned])
    parents = {stored.level: stored.key for stored in (prefix[-1].objects if prefix else ())}
    done: dict[int, list[StoredObject]] = {chunk.start: [] for chunk in chunks}
    for count, (item, size_bytes) in enumerate(zip(planned, sizes, strict=True), 1):
        stored = _store_object(
            job, item, is_there=size_bytes is not None, parent=parents.get(item.level)
        )
        done[item.chunk.start].append(stored)
        parents[item.level] = stored.key
        if progress is not None:
            progress(count, len(planned))
    return [replace(chunk, objects=tuple(done[chunk.start])) for chunk in chunks]


def _store_object(job: _Job, item: _Planned, *, is_there: bool, parent: str | None) -> StoredObject:
    def check(data: bytes) -> object:
        return open_chunk(
            data, entry=item.chunk, level=item.level, fingerprint=job.lineage.fingerprint
        )

    data = adopt(job.store, item.key, check=check) if is_there else None
    if data is None:
        data = put_or_adopt(job.store, item.key, _encode(job, item), check=check, parent=parent)
    return StoredObject(
        level=item.level,
        key=item.key,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
        profile_hash=item.profile_hash,
    )


def _encode(job: _Job, item: _Planned) -> bytes:
    first, stop = item.chunk.start - job.kv.start, item.chunk.stop - job.kv.start
    return encode(
        job.kv.slice(first, stop),
        profile=job.profile,
        level=item.level,
        rope=job.rope,
        fingerprint=job.lineage.fingerprint,
        chunk_id=item.chunk.chunk_id,
    )


def _store_companions(job: _Job, manifest: Manifest, tokens: bytes) -> None:
    """What a reader of the manifest may need besides the chunks: token ids and the profile."""
    companions = {tokens_key(manifest.context_id): tokens}
    if job.profile is not None:
        companions[profile_key(job.profile.hash)] = job.profile.file_bytes
    for key, data in companions.items():
        expected = hashlib.sha256(data).digest()

        def check(found: bytes, key: str = key, expected: bytes = expected) -> None:
            check_digest(hashlib.sha256(found).digest(), expected, field=key)

        put_or_adopt(job.store, key, data, check=check)
