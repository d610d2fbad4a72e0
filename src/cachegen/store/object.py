"""One store for everything obstore speaks to."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore as Backend

from cachegen.errors import StoreError
from cachegen.store.failures import translated
from cachegen.store.keys import check_key, check_range, is_key
from cachegen.store.protocol import Buffer

_READ_BYTES = 1 << 20
_AS_THEY_ARRIVE = 1


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Objects in memory, in a directory, in a bucket, or behind an HTTP server.

    It evicts nothing, so the parents of objects do not matter to it. A directory is written
    without fsync: objects survive a killed writer, not always a power failure, after which
    only digests tell a torn object.

    Attributes:
        backend: what does the work.
        url: the store's name in messages, free of credentials.
        writable: whether the backend can create-if-absent, list and delete.
        lookup_threads: requests of one lookup under way at a time.
        root: the directory, where it is one. Its files' sizes are asked of the system, many times
            as fast as of the backend, and read in ranges of 1 MiB, where the backend streams in
            pieces of a few KiB.
    """

    backend: Backend
    url: str
    writable: bool = True
    lookup_threads: int = 1
    root: Path | None = None

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        self._check_writable(f"put {key}")
        payload = data if isinstance(data, bytes) else bytes(memoryview(data))
        with translated(self.url, f"put {key}"):
            try:
                self.backend.put(key, payload, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        if self.root is not None:
            return self._pieces(key, *self._span(key, range))
        with translated(self.url, f"get {key}"):
            result = self.backend.get(key, options=None if range is None else {"range": range})
            stream = result.stream(min_chunk_size=_AS_THEY_ARRIVE)
        return self._buffers(stream, key)

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
        self._check_writable(f"list {prefix or 'all keys'}")
        return self._keys(prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        self._check_writable(f"delete {key}")
        with translated(self.url, f"delete {key}"):
            try:
                self.backend.delete(key)
            except FileNotFoundError:
                return

    def _check_writable(self, doing: str) -> None:
        if not self.writable:
            raise StoreError(
                f"{self.url}: cannot {doing}: a plain HTTP server is read-only (it cannot "
                "create-if-absent nor list); write to the directory or bucket it serves"
            )

    def _size(self, key: str) -> int | None:
        with translated(self.url, f"look up {key}"):
            try:
                if self.root is not None:
                    return _file_size(self.root / key)
                return int(self.backend.head(key)["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _buffers(self, stream: Iterable[bytes], key: str) -> Iterator[Buffer]:
        with translated(self.url, f"get {key}"):
            yield from stream

    def _span(self, key: str, range: tuple[int, int] | None) -> tuple[int, int]:
        """What there is of a range: (start, stop)."""
        with translated(self.url, f"get {key}"):
            size_bytes = int(self.backend.head(key)["size"])
        start, stop = range or (0, size_bytes)
        if range is not None and start >= size_bytes:
            raise StoreError(
                f"{self.url}: cannot get {key}: expected a range that starts before byte "
                f"{size_bytes}, got {range}"
            )
        return start, min(stop, size_bytes)

    def _pieces(self, key: str, start: int, stop: int) -> Iterator[Buffer]:
        with translated(self.url, f"get {key}"):
            while start < stop:
                end = min(start + _READ_BYTES, stop)
                yield bytes(self.backend.get_range(key, start=start, end=end))
                start = end

    def _keys(self, prefix: str) -> Iterator[str]:
        with translated(self.url, f"list {prefix or 'all keys'}"):
            for batch in self.backend.list(prefix or None):
                yield from (entry["path"] for entry in batch if is_key(entry["path"]))


def _file_size(path: Path) -> int | None:
    """The size of a file; None of a directory."""
    found = path.stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else None
