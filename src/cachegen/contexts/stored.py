"""The contexts that manifests tell of, each once: a manifest stands at every chunk's end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.profile import NO_PROFILE

# Unreadable manifests that are named; further ones are counted. Arbitrary: 10 to 1,000 do.
_MAX_NAMED = 100


@dataclass(frozen=True, slots=True)
class StoredLevel:
    """A context at one level.

    Attributes:
        size_bytes: of its objects.
        num_chunks: chunks that have the level.
    """

    size_bytes: int
    num_chunks: int


@dataclass(frozen=True, slots=True)
class StoredContext:
    """A stored context.

    Attributes:
        context_id: its name.
        fingerprint: of the model.
        root: the folder of the store that it is in; empty for the store itself.
        num_tokens: that it describes.
        exact: whether it was computed without lossily loaded KV before it.
        levels: by name.
        profiles: hashes of the profiles that it takes to decode it.
        chunk_ids: of its chunks.
        objects: bytes of each object, by the hash of its place in the store, which takes a quarter
            of the memory.
        modified_s: when its manifest was written, in seconds since the epoch; None where the store
            does not tell.
        own_bytes: of objects that no other context has.
    """

    context_id: bytes
    fingerprint: bytes
    root: str
    num_tokens: int
    exact: bool
    levels: dict[str, StoredLevel]
    profiles: tuple[bytes, ...]
    chunk_ids: tuple[bytes, ...]
    objects: dict[int, int]
    modified_s: float | None = None
    own_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all its objects."""
        return sum(self.objects.values())


@dataclass(frozen=True, slots=True)
class Listing:
    """What a store holds.

    Attributes:
        contexts: those that begin no other one, by folder and name.
        size_bytes: of all their objects, those that several share once.
        unreadable: keys of manifests that cannot be read, a hundred at most, and why.
        num_unreadable: how many there are.
        left_out: why there may be more contexts; empty where these are all.
    """

    contexts: tuple[StoredContext, ...]
    size_bytes: int
    unreadable: tuple[tuple[str, str], ...]
    num_unreadable: int
    left_out: str


def stored_context(manifest: Manifest, *, root: str, modified_s: float | None) -> StoredContext:
    """What a manifest tells of a context."""
    levels: dict[str, StoredLevel] = {}
    for chunk in manifest.chunks:
        for level in dict.fromkeys(stored.level for stored in chunk.objects):
            size_bytes = sum(stored.size_bytes for stored in chunk.at_level(level))
            known = levels.get(level, StoredLevel(0, 0))
            levels[level] = StoredLevel(known.size_bytes + size_bytes, known.num_chunks + 1)
    objects = [stored for chunk in manifest.chunks for stored in chunk.objects]
    profiles = dict.fromkeys(stored.profile_hash for stored in objects)
    return StoredContext(
        context_id=manifest.context_id,
        fingerprint=manifest.fingerprint,
        root=root,
        num_tokens=manifest.num_tokens,
        exact=manifest.exact,
        levels=levels,
        profiles=tuple(found for found in profiles if found != NO_PROFILE),
        chunk_ids=tuple(chunk.chunk_id for chunk in manifest.chunks),
        objects={hash((root, stored.key)): stored.size_bytes for stored in objects},
        modified_s=modified_s,
    )


@dataclass(slots=True)
class Found:
    """What was read so far.

    A context begins another one where its last chunk is one of the other's. In a partial last chunk
    that both end with, the one of more tokens is the whole.
    """

    left_out: str = ""
    _wholes: dict[tuple[str, bytes], StoredContext] = field(default_factory=dict)
    _inner: set[tuple[str, bytes]] = field(default_factory=set)
    _unreadable: list[tuple[str, str]] = field(default_factory=list)
    _num_unreadable: int = 0

    def add(self, context: StoredContext) -> None:
        """Take a context, and forget those that it begins with."""
        *before, last = ((context.root, chunk_id) for chunk_id in context.chunk_ids)
        for chunk in before:
            self._inner.add(chunk)
            self._wholes.pop(chunk, None)
        known = self._wholes.get(last)
        if last not in self._inner and (known is None or known.num_tokens < context.num_tokens):
            self._wholes[last] = context

    def begins_another(self, root: str, context_id: bytes) -> bool:
        """Whether a context is known as the beginning of one, so that it need not be read."""
        return (root, context_id) in self._inner

    def fail(self, key: str, reason: str) -> None:
        """Take note of a manifest that cannot be read."""
        self._num_unreadable += 1
        if len(self._unreadable) < _MAX_NAMED:
            self._unreadable.append((key, reason))

    def listing(self) -> Listing:
        """All of it; objects of several contexts count once."""
        users: Counter[int] = Counter()
        sizes: dict[int, int] = {}
        for context in self._wholes.values():
            users.update(context.objects.keys())
            sizes.update(context.objects)
        wholes = sorted(self._wholes.values(), key=lambda found: (found.root, found.context_id))
        return Listing(
            tuple(_with_own_bytes(context, users) for context in wholes),
            sum(sizes.values()),
            tuple(self._unreadable),
            self._num_unreadable,
            self.left_out,
        )


def _with_own_bytes(context: StoredContext, users: Counter[int]) -> StoredContext:
    own = (size_bytes for place, size_bytes in context.objects.items() if users[place] == 1)
    return replace(context, own_bytes=sum(own))
