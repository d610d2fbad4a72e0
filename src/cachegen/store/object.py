"""A store for the buckets that obstore reaches."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore as Backend

from cachegen.errors import StoreError
from cachegen.forks import num_forks
from cachegen.store.failures import translated
from cachegen.store.protocol import Buffer, Opened, check_key, check_range, is_key
from cachegen.store.wire import LISTING_S, MAX_LISTED_KEYS

# Of a buffer, in bytes: obstore then passes on what has arrived, which tells the throughput.
_AS_THEY_ARRIVE = 1
_threads_began: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Objects in a bucket.

    It evicts nothing, so the parents of objects do not matter to it.

    Attributes:
        backend: the store of obstore; it works in threads, which a forked child does not have.
        url: the store's name in messages, free of credentials.
        lookup_threads: how many requests of one lookup run at once.
    """

    backend: Backend
    url: str
    lookup_threads: int = 1

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        payload = data if isinstance(data, bytes) else bytes(memoryview(data))
        with self._asking(f"put {key}"):
            try:
                self.backend.put(key, payload, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        with self._asking(f"get {key}"):
            result = self.backend.get(key, options=None if range is None else {"range": range})
            stream = result.stream(min_chunk_size=_AS_THEY_ARRIVE)
            size_bytes = int(result.meta["size"])
            modified_s = result.meta["last_modified"].timestamp()
        start, stop = range or (0, size_bytes)
        buffers = self._buffers(stream, key, min(stop, size_bytes) - start)
        return Opened(size_bytes, buffers, modified_s)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        if self.lookup_threads == 1 or len(keys) < 2:
            return [self._size(key) for key in keys]
        with ThreadPoolExecutor(min(self.lookup_threads, len(keys))) as pool:
            return list(pool.map(self._size, keys))

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        return self._keys(prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with self._asking(f"delete {key}"):
            try:
                self.backend.delete(key)
            except FileNotFoundError:
                return

    def _size(self, key: str) -> int | None:
        with self._asking(f"look up {key}"):
            try:
                return int(self.backend.head(key)["size"])
            except FileNotFoundError:
                return None

    def _buffers(
        self, stream: Iterable[bytes], key: str, num_bytes: int
    ) -> Generator[Buffer, None, None]:
        """The pieces of exactly so many bytes; obstore passes on what a server sends beside."""
        with self._asking(f"get {key}"):
            for piece in stream:
                num_bytes -= len(piece)
                if num_bytes < 0:
                    break
                yield piece
        if num_bytes:
            raise StoreError(f"{self.url}: cannot get {key}: expected its bytes, got more or fewer")

    def _keys(self, prefix: str) -> Iterator[str]:
        with self._asking(f"list {prefix or 'all keys'}"):
            num_keys, due_s = 0, time.monotonic() + LISTING_S
            for batch in self.backend.list(prefix or None):
                num_keys += len(batch)
                if num_keys > MAX_LISTED_KEYS or time.monotonic() > due_s:
                    raise StoreError(
                        f"{self.url}: cannot list {prefix or 'all keys'}: expected at most "
                        f"{MAX_LISTED_KEYS} keys within {LISTING_S:g} s, got more; list below a "
                        "prefix"
                    )
                yield from (entry["path"] for entry in batch if is_key(entry["path"]))

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Call the backend; a failure becomes a StoreError that names the store and the action."""
        _check_threads(self.url, doing)
        with translated(self.url, doing):
            yield


def _check_threads(url: str, doing: str) -> None:
    """Refuse to use the backend in a child forked after its threads had started.

    They start with the first request of a process to any store of this kind; the child would wait
    for them for ever.
    """
    global _threads_began
    if _threads_began is None:
        _threads_began = num_forks()
    if _threads_began != num_forks():
        raise StoreError(
            f"{url}: cannot {doing}: this process was forked from one that had used such a store, "
            "whose threads it does not have; start processes by 'spawn' "
            "(multiprocessing.get_context('spawn')), or use such stores after the fork only"
        )
