"""Objects in the memory of this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from cachegen.store.protocol import Buffer, Opened, check_key, check_range, check_span


@dataclass(frozen=True, slots=True, eq=False)
class MemoryStore:
    """Objects in a dict, gone with the process. Parents do not matter to it.

    Each verb is one atomic operation of the dict and needs no lock. A forked child has a copy of
    the objects; a lock held by another thread at the fork would stay locked in it.
    """

    url: str = "memory:"
    _objects: dict[str, memoryview] = field(default_factory=dict, repr=False)

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        own = memoryview(data if isinstance(data, bytes) else bytes(memoryview(data)))
        return self._objects.setdefault(key, own) is own

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        found = self._objects.get(key)
        size_bytes = None if found is None else len(found)
        start, stop = check_span(range, size_bytes, doing=f"{self.url}: cannot get {key}")
        assert found is not None
        return Opened(len(found), _once(found[start:stop]))

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        found = (self._objects.get(key) for key in keys)
        return [None if data is None else len(data) for data in found]

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        begin = f"{prefix}/" if prefix else ""
        return (key for key in list(self._objects) if key.startswith(begin))

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        self._objects.pop(key, None)


def _once(data: memoryview) -> Generator[Buffer, None, None]:
    yield data
