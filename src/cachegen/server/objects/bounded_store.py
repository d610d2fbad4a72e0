"""A store with a capacity and quotas that evicts what is used least of whoever takes most."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.server.objects.accounts import Accounts, Settle
from cachegen.server.objects.index import Index
from cachegen.server.objects.key_locks import KeyLocks
from cachegen.server.objects.pins import Pin, Pins
from cachegen.store import Buffer, Store
from cachegen.store.wire import Usage

_LOG = logging.getLogger("cachegen.server")
# Arbitrary: 100 to 4,096 do. Keys of one lookup while the store is scanned.
_SCAN_KEYS = 1000
# A bound on what an object takes of a disk beside its bytes: for each segment of its key a folder
# of one block or the file's last block, of 4,096 bytes on ext4 and xfs.
SEGMENT_BYTES = 4096
# A bound on one request; each attempt but the last met an object that was replaced since the one
# before. Arbitrary: 2 to 100 do.
_ATTEMPTS = 10
# A bound on open files, 32 for each listing. Arbitrary: 8 to 64 do, and a quarter for one owner.
_LISTINGS = 16
_OWNER_LISTINGS = 4
# Arbitrary: 300 to 86,400 s do. So long may what others wrote stay uncounted where nobody asks for
# it, and a killed writer's file longer than `staging.STALE_S`.
TIDY_S = 900.0
# Arbitrary: 1 to 30 s do; a batch of a scan takes less, and a store that hangs is not waited for.
_TIDY_ENDS_S = 5.0
# A scan beside requests leaves nine tenths of the time to them. Arbitrary: 4 to 50 do.
_REST = 9


class KeyConflict(StoreError):
    """A key that goes on where an object's key ends, or ends where others go on."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An object that is read: its size, the range asked for, and the bytes of that range.

    `modified_s` is as of `Opened`.
    """

    size_bytes: int
    start: int
    stop: int
    buffers: Iterator[Buffer]
    modified_s: float | None = None


class BoundedStore:
    """A store with an index, a capacity and quotas; thread-safe.

    Other processes may add objects to the store, replace and remove them: whatever is asked for is
    as it is in the store, and a scan finds the rest. Other processes are not held to the limits.

    What counts how much says `Accounts`.

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
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.store, self.index, self.capacity_bytes = store, index, capacity_bytes
        self._on_evict = on_evict
        self._accounts = Accounts(index, segment_bytes=segment_bytes)
        self._key_locks = KeyLocks()
        self._room_lock = threading.Lock()
        self._pins = Pins()
        self._listings: Counter[str] = Counter()
        self._unfinished_bytes = 0
        self._was_scanned = False

    def sweep(self) -> None:
        """Remove what killed writers left, where the store can; what is not old enough counts."""
        sweep: Callable[[], int] | None = getattr(self.store, "sweep", None)
        if sweep is not None:
            self._unfinished_bytes = sweep()

    def scan(self, rest: Callable[[float], bool] | None = None) -> None:
        """Make the index list what the store holds.

        Args:
            rest: for a scan beside requests: is called between two batches with seconds to let
                others work; where it says True the scan ends early.
        """
        self.index.forget_seen()
        for keys in _batches(self.store.list(), _SCAN_KEYS):
            began_s = time.monotonic()
            self.index.see(keys)
            self._current(keys, at_once=rest is None)
            if rest is not None and rest(_REST * (time.monotonic() - began_s)):
                return
        last = ""
        while unseen := self.index.unseen(_SCAN_KEYS, after=last):
            for key in unseen:
                self._adopt(key)
            last = unseen[-1]
        self._was_scanned = True

    def usage(self, owner: str) -> Usage | None:
        """What an owner's objects are together; None before all objects are known."""
        if not self._was_scanned:
            return None
        holding = self.index.holding(owner)
        return Usage(holding.objects, holding.size_bytes, self._accounts.cost_of(holding))

    @contextmanager
    def tidying(self, *, scans: bool, every_s: float = TIDY_S) -> Iterator[None]:
        """Tidy up again and again beside requests, while the context lasts.

        Args:
            scans: whether the store is scanned, as it was before; else it is only swept, at once.
            every_s: the time between two rounds.
        """
        ending = threading.Event()

        def tidy() -> None:
            if scans and ending.wait(every_s):
                return
            while True:
                self._tidy(ending, scans=scans)
                if ending.wait(every_s):
                    return

        thread = threading.Thread(target=tidy, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(_TIDY_ENDS_S)

    def _tidy(self, ending: threading.Event, *, scans: bool) -> None:
        try:
            self.sweep()
            if scans:
                self.scan(rest=ending.wait)
        except StoreError as error:
            _LOG.warning("the store could not be tidied up: %s", error)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """The sizes of objects as they are now, None where there is none. They count as used."""
        different = tuple(dict.fromkeys(keys))
        found = dict(zip(different, self._current(different), strict=True))
        self.index.touch(key for key in reversed(found) if found[key] is not None)
        return [found[key] for key in keys]

    @contextmanager
    def listing(self, prefix: str = "") -> Iterator[Iterator[str]]:
        """The keys below a prefix, while the context lasts.

        Raises:
            StoreTimeout: too many are being listed.
            StoreError: the store fails.
        """
        owner = self.index.namespace_of(prefix)
        with self._room_lock:
            if self._listings.total() >= _LISTINGS or self._listings[owner] >= _OWNER_LISTINGS:
                raise StoreTimeout("too many keys are being listed: try again later")
            self._listings[owner] += 1
        keys = self.store.list(prefix)
        try:
            yield keys
        finally:
            _close(keys)
            with self._room_lock:
                self._listings[owner] -= 1

    @contextmanager
    def reading(
        self, key: str, span: Callable[[int], tuple[int, int]], *, peeks: bool = False
    ) -> Iterator[Reading]:
        """Read the bytes (start, stop) that ``span`` chooses of an object's size.

        The size is that of the object that is opened, whoever wrote it. One that is only looked at
        (``peeks``) does not count as used.

        Raises:
            KeyNotFound: there is no such object; at the first bytes, also that it was deleted.
            StoreError: the store fails; at later bytes, also that the object was deleted.
        """
        with ExitStack() as stack:
            with self._key_locks.holding(key):
                use = stack.enter_context(self._pins.using(key))
                opened = self._open(key, span)
            stack.callback(_close, opened.buffers)
            if not peeks:
                self.index.touch([key])
            buffers = _checked(opened.buffers, use, opened.stop - opened.start)
            yield replace(opened, buffers=buffers)

    def admits(
        self,
        key: str,
        size_bytes: int,
        *,
        quota_bytes: int | None = None,
        quota_objects: int | None = None,
    ) -> bool:
        """Whether `put` could create an object of this size now; False where there is one.

        Raises:
            StoreFull: it would exceed a quota or the capacity.
            StoreError: the store fails.
        """
        if self.lookup([key]) != [None]:
            return False
        self._accounts.check_quota(key, size_bytes, quota_bytes, quota_objects)
        self._check_capacity(key, size_bytes)
        return True

    def left_bytes(self, key: str, *, quota_bytes: int | None = None) -> int | None:
        """The largest object that `admits` could admit under a key; None: of any size."""
        left = []
        if self.capacity_bytes is not None:
            left.append(max(0, self.capacity_bytes - self._accounts.cost(key, 0)))
        if quota_bytes is not None:
            left.append(self._accounts.left_bytes(key, quota_bytes=quota_bytes))
        return min(left, default=None)

    def put(
        self,
        key: str,
        data: Buffer,
        *,
        parent: str | None = None,
        quota_bytes: int | None = None,
        quota_objects: int | None = None,
    ) -> bool:
        """Create an object; False where there is one.

        Raises:
            StoreFull: it would exceed a quota or the capacity, or the store's own room.
            KeyConflict: the store cannot hold it beside another object.
            StoreError: the store fails.
        """
        if self.lookup([key]) != [None]:
            return False
        with (
            self._room(key, len(data), quota_bytes, quota_objects) as settle,
            self._pins.using(key),
            self._pins.using(parent),
        ):
            if parent is not None:
                self.lookup([parent])
            with self._key_locks.holding(key):
                created = self._create(key, data)
                if created:
                    settle(lambda: self.index.add(key, len(data), parent=parent))
                else:
                    self._adopt(key)
                return created

    def delete(self, key: str) -> None:
        """Remove an object; transfers that read it fail."""
        with self._key_locks.holding(key):
            self._remove(key)

    def _create(self, key: str, data: Buffer) -> bool:
        try:
            return self.store.put(key, data)
        except (StoreDenied, StoreFull, StoreTimeout):
            raise
        except StoreError as error:
            segments = key.split("/")
            before = ["/".join(segments[:count]) for count in range(1, len(segments))]
            behind = next(iter(self.store.list(key)), None)
            if behind is None and all(size is None for size in self.store.lookup(before)):
                raise
            raise KeyConflict(
                f"{key}: expected a key that continues no other and that none continues"
            ) from error

    def _current(self, keys: Sequence[str], *, at_once: bool = False) -> list[int | None]:
        """The sizes of objects as they are in the store; the index follows.

        New ones are listed ``at_once`` while nobody else puts or deletes any.
        """
        stored = dict(zip(keys, self.store.lookup(keys), strict=True))
        if at_once:
            self.index.add_unlisted({key: size for key, size in stored.items() if size is not None})
        known = self.index.sizes(keys)
        return [stored[key] if stored[key] == known.get(key) else self._adopt(key) for key in keys]

    def _adopt(self, key: str) -> int | None:
        """Make the index say of an object what the store says, which is returned.

        The store is asked again: what it said before may be older than what this process did.
        """
        with self._key_locks.holding(key):
            (size_bytes,), known = self.store.lookup([key]), self.index.size(key)
            if size_bytes is None and known is not None:
                self.index.remove(key)
            elif size_bytes is not None and known is None:
                self.index.add(key, size_bytes)
            elif size_bytes is not None and known != size_bytes:
                self.index.resize(key, size_bytes)
            return size_bytes

    def _open(self, key: str, span: Callable[[int], tuple[int, int]]) -> Reading:
        """Open an object for reading; the caller holds the key's lock.

        The range follows from the size that the index says, and holds only if the object that is
        opened has that size.
        """
        size_bytes = self.index.size(key)
        if size_bytes is None:
            size_bytes = self._adopt(key)
        for _ in range(_ATTEMPTS):
            if size_bytes is None:
                raise KeyNotFound(f"{key}: there is no such object")
            said_bytes = size_bytes
            try:
                start, stop = span(said_bytes)
                is_whole = (start, stop) == (0, said_bytes)
                buffers = self.store.get(key, None if is_whole else (start, stop))
            except Exception:
                size_bytes = self._adopt(key)
                if size_bytes == said_bytes:
                    raise
                continue
            size_bytes = getattr(buffers, "size_bytes", None)
            if size_bytes != said_bytes:
                size_bytes = self._adopt(key)
            if size_bytes == said_bytes:
                modified_s = getattr(buffers, "modified_s", None)
                return Reading(said_bytes, start, stop, buffers, modified_s)
            _close(buffers)
        raise StoreError(f"{key}: it is replaced again and again")

    @contextmanager
    def _room(
        self, key: str, size_bytes: int, quota_bytes: int | None, quota_objects: int | None
    ) -> Iterator[Settle]:
        """Reserve room for an object, evicting others, until it is settled in the index."""
        with ExitStack() as stack:
            with self._room_lock:
                settle = stack.enter_context(
                    self._accounts.coming(key, size_bytes, quota_bytes, quota_objects)
                )
                self._check_capacity(key, size_bytes)
                self._evict_beyond_capacity()
            yield settle

    def _check_capacity(self, key: str, size_bytes: int) -> None:
        if self.capacity_bytes is None:
            return
        most_bytes = self.capacity_bytes - self._accounts.cost(key, 0)
        if size_bytes > most_bytes:
            raise StoreFull(
                f"expected an object of at most {max(0, most_bytes)} bytes, got {size_bytes}"
            )

    def _evict_beyond_capacity(self) -> None:
        while (capacity_bytes := self.capacity_bytes) is not None:
            taken = self._accounts.taken()
            room_bytes = capacity_bytes - self._unfinished_bytes
            if taken.total() <= room_bytes:
                return
            self._evict(self._victim(taken, room_bytes))

    def _victim(self, taken: Counter[str], room_bytes: int) -> str:
        """The least recently used object, not pinned and without children, of who takes most.

        Who takes no more than an equal part of the room loses nothing to the others. Where
        together they take too much, somebody takes more than that.
        """
        used = self._pins.keys()
        for owner, taken_bytes in taken.most_common():
            if taken_bytes * len(taken) <= room_bytes:
                break
            for key in self.index.leaves(len(used) + 1, owner=owner):
                if key not in used:
                    return key
        raise StoreFull(
            f"expected an object that fits into {self.capacity_bytes} bytes beside those in use "
            "and the equal parts of others, got a larger one"
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
    """The buffers, until the object is deleted: another one may follow under the same key.

    Who has got none of them yet is told that there is no such object.
    """
    error: type[StoreError] = KeyNotFound
    for buffer in buffers:
        size_bytes -= len(buffer)
        if use.gone:
            raise error("the object was deleted while it was read")
        error = StoreError
        if size_bytes < 0:
            raise StoreError(f"the object goes on for {-size_bytes} bytes behind its end")
        yield buffer
    if size_bytes:
        raise StoreError(f"the object ended {size_bytes} bytes early")


def _close(taken: object) -> None:
    close = getattr(taken, "close", None)
    if close is not None:
        close()


def _batches(keys: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(itertools.islice(keys, size)):
        yield batch
