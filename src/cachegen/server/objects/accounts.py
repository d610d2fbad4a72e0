"""What owners' objects take together: those that are stored and those that are being put."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachegen.errors import StoreFull
from cachegen.server.objects.index import Holding, Index, num_segments

# Moves an object from those that are being put to those that are stored, by the function given.
Settle = Callable[[Callable[[], None]], None]


class Accounts:
    """Holds owners to their quotas; thread-safe. An object counts once, whoever asks when.

    An object counts with its bytes and with `segment_bytes` for each segment of its key, so that
    empty objects and deep keys are not free.

    Args:
        index: the objects that are stored.
        segment_bytes: what a segment of a key counts with.
    """

    def __init__(self, index: Index, *, segment_bytes: int) -> None:
        self._index, self._segment_bytes = index, segment_bytes
        self._lock = threading.Lock()
        self._coming_bytes: Counter[str] = Counter()
        self._coming_objects: Counter[str] = Counter()

    def cost(self, key: str, size_bytes: int) -> int:
        """The bytes that an object counts with."""
        return size_bytes + self._segment_bytes * num_segments(key)

    def cost_of(self, holding: Holding) -> int:
        """The bytes that many objects count with."""
        return holding.size_bytes + self._segment_bytes * holding.segments

    def taken(self) -> Counter[str]:
        """The bytes that each owner's objects count with; owners of none are left out."""
        with self._lock:
            holdings = self._index.holdings()
            taken = Counter({owner: self.cost_of(held) for owner, held in holdings.items()})
            taken.update(self._coming_bytes)
            return +taken

    def left_bytes(self, key: str, *, quota_bytes: int) -> int:
        """The largest object that fits under a key within a quota."""
        with self._lock:
            return max(0, self._left_bytes(key, quota_bytes))

    def check_quota(
        self, key: str, size_bytes: int, quota_bytes: int | None, quota_objects: int | None
    ) -> None:
        """Raises StoreFull where one more object would exceed a quota."""
        with self._lock:
            self._check_quota(key, size_bytes, quota_bytes, quota_objects)

    @contextmanager
    def coming(
        self, key: str, size_bytes: int, quota_bytes: int | None, quota_objects: int | None
    ) -> Iterator[Settle]:
        """Count an object that is being put until it is settled or the context ends.

        Raises:
            StoreFull: it would exceed a quota.
        """
        owner, cost_bytes, counts = self._index.namespace_of(key), self.cost(key, size_bytes), True
        with self._lock:
            self._check_quota(key, size_bytes, quota_bytes, quota_objects)
            self._coming_bytes[owner] += cost_bytes
            self._coming_objects[owner] += 1

        def settle(store: Callable[[], None] = lambda: None) -> None:
            nonlocal counts
            with self._lock:
                store()
                if counts:
                    self._coming_bytes[owner] -= cost_bytes
                    self._coming_objects[owner] -= 1
                counts = False

        try:
            yield settle
        finally:
            settle()

    def _left_bytes(self, key: str, quota_bytes: int) -> int:
        owner = self._index.namespace_of(key)
        taken_bytes = self.cost_of(self._index.holding(owner)) + self._coming_bytes[owner]
        return quota_bytes - taken_bytes - self.cost(key, 0)

    def _check_quota(
        self, key: str, size_bytes: int, quota_bytes: int | None, quota_objects: int | None
    ) -> None:
        if quota_bytes is not None:
            left_bytes = self._left_bytes(key, quota_bytes)
            if size_bytes > left_bytes:
                raise StoreFull(
                    f"expected at most {max(0, left_bytes)} more bytes within the quota of "
                    f"{quota_bytes}, got {size_bytes} (each segment of a key takes "
                    f"{self._segment_bytes} more)"
                )
        if quota_objects is not None:
            owner = self._index.namespace_of(key)
            if self._index.holding(owner).objects + self._coming_objects[owner] >= quota_objects:
                raise StoreFull(
                    f"expected no more objects than the quota of {quota_objects}, got one more"
                )
