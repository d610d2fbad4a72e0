"""Publishes manifests: a new one, or the union with the stored one."""

from __future__ import annotations

from dataclasses import replace

from cachegen.bitstream.identity import LINK_TOKENS, Ids
from cachegen.bitstream.manifest import (
    ChunkEntry,
    Manifest,
    manifest_key,
    tokens_key,
)
from cachegen.contexts.objects import read_stored_manifest
from cachegen.errors import BitstreamError, KeyNotFound, StoreError
from cachegen.store import Store

# The second replaces a stored manifest; further ones need other writers. Arbitrary: 3 to 10 does.
_ATTEMPTS = 4


def publish(store: Store, manifest: Manifest, *, parent: str) -> Manifest:
    """Store a manifest; objects that only the one already stored names are kept.

    ``parent`` is the key of the object without which it is useless.

    Raises:
        StoreError: the store fails, or other writers keep getting in between.
    """
    key = manifest_key(manifest.context_id)
    for _ in range(_ATTEMPTS):
        if store.put(key, manifest.to_bytes(), parent=parent):
            return manifest
        stored = _stored(store, manifest)
        if stored is not None and _covers(stored, manifest):
            return stored
        store.delete(key)
        manifest = manifest if stored is None else _merge(manifest, stored)
    raise StoreError(f"{key}: other writers changed it {_ATTEMPTS} times; try again")


def smallest_key(chunk: ChunkEntry) -> str:
    """Key of the last object of the chunk's smallest level, on which its manifest depends.

    Each object of a level is the parent of the next, so that the last depends on all of them.
    """
    levels = [chunk.at_level(level) for level in {o.level: None for o in chunk.objects}]
    return min(levels, key=lambda level: sum(o.size_bytes for o in level))[-1].key


def manifest_parent(manifest: Manifest, whole: Manifest) -> str:
    """Key of the context's token ids if both end in the same chunk, else of its last chunk."""
    last = manifest.chunks[-1]
    ends_here = last == whole.chunks[-1]
    return tokens_key(whole.context_id) if ends_here else smallest_key(last)


def prefixes_to_publish(whole: Manifest, *, first_new: int, ids: Ids) -> list[Manifest]:
    """The manifests of a context, shortest first: one per new chunk end, and its own.

    An end that is no multiple of 64 has no manifest, except the context's own; a last chunk with
    such an end has one at the last multiple inside it.
    """
    chunks, num_tokens = whole.chunks, whole.num_tokens
    ends = {chunk.stop for chunk in chunks[first_new:] if chunk.stop % LINK_TOKENS == 0}
    inner = num_tokens - num_tokens % LINK_TOKENS
    if inner > chunks[-1].start:
        ends.add(inner)
    cut = [
        replace(
            whole,
            context_id=ids.of(end),
            num_tokens=end,
            chunks=tuple(chunk for chunk in chunks if chunk.start < end),
        )
        for end in sorted(ends - {num_tokens})
    ]
    return [*cut, whole]


def _stored(store: Store, manifest: Manifest) -> Manifest | None:
    try:
        return read_stored_manifest(store, manifest.context_id, fingerprint=manifest.fingerprint)
    except (KeyNotFound, BitstreamError):
        return None


def _covers(stored: Manifest, new: Manifest) -> bool:
    return _ranges(stored) == _ranges(new) and all(
        set(ours.objects) <= set(theirs.objects)
        for ours, theirs in zip(new.chunks, stored.chunks, strict=True)
    )


def _merge(new: Manifest, stored: Manifest) -> Manifest:
    """The union of both manifests' objects, the new one's if both have a level.

    Only the new one's if the chunks or windows differ.
    """
    other_windows = new.windows and stored.windows and new.windows != stored.windows
    if _ranges(stored) != _ranges(new) or other_windows:
        return new
    chunks = (
        _merge_chunk(ours, theirs) for ours, theirs in zip(new.chunks, stored.chunks, strict=True)
    )
    return replace(new, chunks=tuple(chunks), windows=new.windows or stored.windows)


def _merge_chunk(ours: ChunkEntry, theirs: ChunkEntry) -> ChunkEntry:
    levels = {stored.level for stored in ours.objects}
    kept = tuple(stored for stored in theirs.objects if stored.level not in levels)
    return replace(ours, objects=ours.objects + kept)


def _ranges(manifest: Manifest) -> list[tuple[bytes, int, int]]:
    return [(chunk.chunk_id, chunk.start, chunk.stop) for chunk in manifest.chunks]
