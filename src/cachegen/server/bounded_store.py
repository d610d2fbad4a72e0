"""A store with a capacity and quotas that evicts the least recently used objects."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from cachegen.errors import KeyNotFound, StoreError, StoreFull
from cachegen.server.index import Index
from cachegen.server.key_locks import KeyLocks
from cachegen.server.pins import Pin, Pins
from cachegen.store import Buffer, Store

# Arbitrary: 100 to 4,096 do. Keys of one lookup while the store is scanned.
_SCAN_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """An object that is read: its size, the range asked for, and the bytes of that range."""

    size_bytes: int
    start: int
    stop: int
    buffers: Iterator[Buffer]


class BoundedStore:
    """A store with an index and a capacity; thread-safe.

    Other processes may add objects to the store and remove them meanwhile, but not replace any.

    Attributes:
        store: holds the objects.
        index: knows their sizes, parents and order of use.
        capacity_bytes: the most that all objects together may take; None: nothing is evicted.
    """

    def __init__(
        self,
        store: Store,
        *,
        index: Index,
        capacity_bytes: int | None = None,
        on_evict: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        self.store, self.index, self.capacity_bytes = store, index, capacity_bytes
        self._on_evict = on_evict
        self._key_locks = KeyLocks()
        self._room_lock = threading.Lock()
        self._pins = Pins()
        self._reserved: Counter[str] = Counter()

    def scan(self) -> None:
        """Make the index list what the store holds."""
        unseen = set(self.index.keys())
        for keys in _batches(self.store.list(), _SCAN_KEYS):
            unseen.difference_update(keys)
            known = self.index.sizes(keys)
            for key, size_bytes in zip(keys, self.store.lookup(keys), strict=True):
                if size_bytes is not None and known.get(key) != size_bytes:
                    self.index.add(key, size_bytes)
        for key in unseen:
            self.index.remove(key)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """The sizes of objects, None where there is none. They count as used."""
        known = self.index.sizes(keys)
        unknown = [key for key in dict.fromkeys(keys) if key not in known]
        adopted: dict[str, int | None] = {}
        if unknown:
            stored = zip(unknown, self.store.lookup(unknown), strict=True)
            adopted = {key: self._adopt(key) for key, size in stored if size is not None}
        sizes = {key: known.get(key, adopted.get(key)) for key in keys}
        self.index.touch(key for key in reversed(sizes) if sizes[key] is not None)
        return [sizes[key] for key in keys]

    @contextmanager
    def reading(self, key: str, span: Callable[[int], tuple[int, int]]) -> Iterator[Reading]:
        """Read the bytes (start, stop) that ``span`` chooses of an object's size.

        Raises:
            KeyNotFound: there is no such object.
            StoreError: the store fails; while bytes are taken, also that the object was deleted.
        """
        with ExitStack() as stack:
            with self._key_locks.holding(key):
                use = stack.enter_context(self._pins.using(key))
                (size_bytes,) = self.lookup([key])
            if size_bytes is None:
                raise KeyNotFound(f"{key}: there is no such object")
            start, stop = span(size_bytes)
            buffers = self._open(key, start, stop)
            try:
                yield Reading(size_bytes, start, stop, _checked(buffers, use, stop - start))
            finally:
                close = getattr(buffers, "close", None)
                if close is not None:
                    close()

    def admits(self, key: str, size_bytes: int, *, quota_bytes: int | None = None) -> bool:
        """Whether `put` could create an object of this size now; False where there is one.

        Raises:
            StoreFull: it would exceed the quota or the capacity.
            StoreError: the store fails.
        """
        if self.lookup([key]) != [None]:
            return False
        with self._room_lock:
            self._check_quota(self.index.namespace_of(key), size_bytes, quota_bytes)
            self._check_capacity(size_bytes)
        return True

    def put(
        self,
        key: str,
        data: Buffer,
        *,
        parent: str | None = None,
        quota_bytes: int | None = None,
    ) -> bool:
        """Create an object; False where there is one.

        Raises:
            StoreFull: it would exceed the quota or the capacity, or the store's own room.
            StoreError: the store fails.
        """
        if self.lookup([key]) != [None]:
            return False
        with (
            self._room(key, len(data), quota_bytes),
            self._pins.using(key),
            self._pins.using(parent),
        ):
            if parent is not None:
                self.lookup([parent])
            with self._key_locks.holding(key):
                created = self.store.put(key, data)
                if created:
                    self.index.add(key, len(data), parent=parent)
                return created

    def delete(self, key: str) -> None:
        """Remove an object; transfers that read it fail."""
        with self._key_locks.holding(key):
            self._remove(key)

    def _adopt(self, key: str) -> int | None:
        """Add to the index an object that another process or thread wrote, if it is still there."""
        with self._key_locks.holding(key):
            (size_bytes,) = self.store.lookup([key])
            if size_bytes is not None and self.index.size(key) is None:
                self.index.add(key, size_bytes)
            return size_bytes

    def _open(self, key: str, start: int, stop: int) -> Iterator[Buffer]:
        if start == stop:
            return iter(())
        try:
            return self.store.get(key, (start, stop))
        except KeyNotFound:
            self.index.remove(key)
            raise

    @contextmanager
    def _room(self, key: str, size_bytes: int, quota_bytes: int | None) -> Iterator[None]:
        """Reserve room for an object, evicting others, until it is in the index."""
        owner = self.index.namespace_of(key)
        with self._room_lock:
            self._check_quota(owner, size_bytes, quota_bytes)
            self._evict_for(size_bytes)
            self._reserved[owner] += size_bytes
        try:
            yield
        finally:
            with self._room_lock:
                self._reserved[owner] -= size_bytes

    def _check_quota(self, owner: str, size_bytes: int, quota_bytes: int | None) -> None:
        stored = self.index.stored_bytes(owner) + self._reserved[owner]
        if quota_bytes is not None and stored + size_bytes > quota_bytes:
            raise StoreFull(
                f"expected at most {quota_bytes - stored} more bytes within the quota of "
                f"{quota_bytes}, got {size_bytes}"
            )

    def _check_capacity(self, size_bytes: int) -> None:
        if self.capacity_bytes is not None and size_bytes > self.capacity_bytes:
            raise StoreFull(
                f"expected an object of at most {self.capacity_bytes} bytes, got {size_bytes}"
            )

    def _evict_for(self, size_bytes: int) -> None:
        self._check_capacity(size_bytes)
        while self._missing(size_bytes) > 0:
            self._evict(self._victim(size_bytes))

    def _missing(self, size_bytes: int) -> int:
        if self.capacity_bytes is None:
            return 0
        taken = self.index.stored_bytes() + self._reserved.total()
        return taken + size_bytes - self.capacity_bytes

    def _victim(self, size_bytes: int) -> str:
        """The least recently used object that is not pinned and has no children."""
        used = self._pins.keys()
        for key in self.index.leaves(len(used) + 1):
            if key not in used:
                return key
        raise StoreFull(
            f"expected an object that fits into {self.capacity_bytes} bytes beside those in use, "
            f"got {size_bytes} bytes"
        )

    def _evict(self, key: str) -> None:
        """Remove an object unless it has been pinned meanwhile."""
        with self._key_locks.holding(key):
            if self._pins.has(key):
                return
            size_bytes = self.index.size(key) or 0
            self._remove(key)
        self._on_evict(size_bytes)

    def _remove(self, key: str) -> None:
        """Remove an object, and mark its pins first.

        A reader then cannot take the bytes of a later object under this key for the rest of its
        own. The caller holds the key's lock, so that no reader begins in between.
        """
        self._pins.mark_gone(key)
        self.store.delete(key)
        self.index.remove(key)


def _checked(buffers: Iterator[Buffer], use: Pin, size_bytes: int) -> Iterator[Buffer]:
    """The buffers, until the object is deleted: another one may follow under the same key."""
    for buffer in buffers:
        size_bytes -= len(buffer)
        if use.gone:
            raise StoreError("the object was deleted while it was read")
        yield buffer
    if size_bytes:
        raise StoreError(f"the object ended {size_bytes} bytes early")


def _batches(keys: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(itertools.islice(keys, size)):
        yield batch
