"""Objects as plain files, one a key."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull
from cachegen.store.protocol import Buffer, check_key, check_range, check_span, is_key

# Reading 1.2 MB in ranges of 1 MiB took 0.3 ms, in pieces of 8 KiB 9.4 (docs/LOG.md, 2026-11-21).
_READ_BYTES = 1 << 20
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Objects as files below a folder. Parents do not matter to it; it evicts nothing.

    A file is written under a name that is no key and then linked to its own, which fails where
    that is taken. There is no fsync: objects survive a killed writer, not always a power failure,
    after which only digests tell a torn object. It holds no thread, lock or open file, so that it
    works in a forked child too.

    Attributes:
        root: the folder, an absolute path.
    """

    root: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.root)

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        view, path = memoryview(data).cast("B"), self.root / key
        with self._translated(f"put {key}"):
            if _file_size(path) is not None:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = path.with_name(f"{path.name}#{secrets.token_hex(8)}")
            try:
                _write(staged, view)
                return self._linked(staged, path)
            finally:
                with suppress(FileNotFoundError):
                    staged.unlink()

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        with self._translated(f"get {key}"):
            size_bytes = _file_size(self.root / key)
        start, stop = check_span(range, size_bytes, doing=f"{self.url}: cannot get {key}")
        return self._pieces(key, start, stop)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        with self._translated(f"look up {len(keys)} keys"):
            return [_file_size(self.root / key) for key in keys]

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        return self._keys(prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with self._translated(f"delete {key}"), _forgiven():
            (self.root / key).unlink()

    def _linked(self, staged: Path, path: Path) -> bool:
        """Give a file its name; False where an object has it."""
        try:
            os.link(staged, path)
        except FileExistsError as error:
            if not _is_in_the_way(path):
                return False
            raise StoreError(
                f"{self.url}: cannot put {path.relative_to(self.root)}: expected an object or "
                f"nothing at {path}, got a folder, a dangling link or another thing that is no "
                "object; use another key, or remove it"
            ) from error
        return True

    def _pieces(self, key: str, start: int, stop: int) -> Iterator[Buffer]:
        with self._translated(f"get {key}"), self._open(key) as file:
            while start < stop:
                piece = os.pread(file.fileno(), min(_READ_BYTES, stop - start), start)
                if not piece:
                    raise StoreError(
                        f"{self.url}: cannot get {key}: expected {stop} bytes, got {start}"
                    )
                yield piece
                start += len(piece)

    def _open(self, key: str) -> FileIO:
        try:
            return (self.root / key).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise KeyNotFound(f"{self.url}: cannot get {key}: it was removed") from error

    def _keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix; names that are no keys and loops of links are skipped."""
        with self._translated(f"list {prefix or 'all keys'}"):
            folders = [prefix]
            while folders:
                folder = folders.pop()
                for name, is_folder in _entries(self.root / folder):
                    key = f"{folder}/{name}" if folder else name
                    if is_key(key) and is_folder:
                        folders.append(key)
                    elif is_key(key):
                        yield key

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn a failure of the system into a StoreError that names the folder and the action."""
        try:
            yield
        except OSError as error:
            raise kind_of(error)(f"{self.url}: cannot {doing}: {error.strerror}") from error


def kind_of(error: OSError) -> type[StoreError]:
    """The class of StoreError that stands for a failure of the system."""
    if isinstance(error, PermissionError):
        return StoreDenied
    return StoreFull if error.errno in _FULL else StoreError


def _write(path: Path, view: memoryview) -> None:
    with path.open("xb", buffering=0) as file:
        written = 0
        while written < len(view):
            written += file.write(view[written:]) or 0


@contextmanager
def _forgiven() -> Iterator[None]:
    """Pass over failures that mean that nothing is at a path."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ABSENT:
            raise


def _file_size(path: Path) -> int | None:
    """The size of a file; None where there is none."""
    with _forgiven():
        found = path.stat()
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    return None


def _is_in_the_way(path: Path) -> bool:
    """Whether a path holds something that is no object; a file removed meanwhile was one."""
    with _forgiven():
        return not stat.S_ISREG(path.lstat().st_mode) and _file_size(path) is None
    return False


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Folders (True) and files by their names; nothing of a folder that is gone meanwhile."""
    found: list[tuple[str, bool]] = []
    with _forgiven(), os.scandir(folder) as entries:
        for entry in entries:
            with _forgiven():
                if entry.is_dir() or entry.is_file():
                    found.append((entry.name, entry.is_dir()))
    return found
