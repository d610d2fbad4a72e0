"""Objects as plain files, one a key."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cachegen.errors import StoreDenied, StoreError, StoreFull
from cachegen.store.beneath import (
    Folders,
    file_size,
    forgiven,
    is_in_the_way,
    listed,
    open_file,
)
from cachegen.store.protocol import Buffer, Opened, check_key, check_range, check_span, is_key
from cachegen.store.staging import Link, staged
from cachegen.store.sweeping import sweep

# Reading 1.2 MB in ranges of 1 MiB took 0.3 ms, in pieces of 8 KiB 9.4 (docs/LOG.md, 2026-11-21).
_READ_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
# A bound on one put. Each attempt but the last lost its new folder to somebody who found it empty.
# Arbitrary: 10 to 1,000 do.
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Objects as files below a folder. Parents do not matter to it; it evicts nothing.

    A file is written without a name (`cachegen.store.staging`) and then linked to its own, which
    fails where that is taken. There is no fsync: objects survive a killed writer, not always a
    power failure, after which only digests tell a torn object. Links below the root are not
    followed: there is no object behind one. A folder goes with the last object in it. It holds no
    thread, lock or open file, so that it works in a forked child too.

    Attributes:
        root: the folder, an absolute path; it may itself be a link.
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
        view = memoryview(data).cast("B")
        with self._translated(f"put {key}"):
            for _ in range(_ATTEMPTS):
                with suppress(FileNotFoundError):
                    return self._put(key, view)
        raise StoreError(f"{self.url}: cannot put {key}: its folder is removed again and again")

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`. The object is the one that is there now, whatever happens later."""
        check_key(key)
        check_range(range)
        with self._translated(f"get {key}"):
            descriptor = self._open(key)
            found = None if descriptor is None else os.fstat(descriptor)
        try:
            size_bytes = None if found is None else found.st_size
            start, stop = check_span(range, size_bytes, doing=f"{self.url}: cannot get {key}")
        except StoreError:
            if descriptor is not None:
                os.close(descriptor)
            raise
        assert descriptor is not None and found is not None
        pieces = self._pieces(key, descriptor, found, span=(start, stop))
        next(pieces)
        return Opened(found.st_size, pieces, found.st_mtime)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        with self._translated(f"look up {len(keys)} keys"):
            try:
                folders = Folders(self.root)
            except FileNotFoundError:
                return [None] * len(keys)
            with folders:
                return [_size_of(key, folders) for key in keys]

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`. It keeps two files open for each segment of the key that it is at."""
        if prefix:
            check_key(prefix)
        return self._keys(prefix)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        *names, name = key.split("/")
        with self._translated(f"delete {key}"), forgiven(), Folders(self.root) as folders:
            folder = folders.enter(names)
            if file_size(name, folder) is not None:
                os.unlink(name, dir_fd=folder)
                folders.prune()

    def sweep(self) -> int:
        """Remove what killed writers left, and empty folders; the bytes that may still be theirs.

        Files of writers that are at work stay: those that were written to within an hour.
        """
        with self._translated("sweep"):
            return sweep(self.root)

    def _put(self, key: str, view: memoryview) -> bool:
        with Folders(self.root, make=True) as folders:
            try:
                if _size_of(key, folders) is not None:
                    return False
                folder = self._made(key, folders)
                with staged(view, root=folders.root, folder=folder) as link:
                    return self._linked(link, key, folder)
            except BaseException:
                folders.prune()
                raise

    def _made(self, key: str, folders: Folders) -> int:
        """Enter the folder that a key is in, which is made if it is missing."""
        try:
            return folders.enter(key.split("/")[:-1], make=True)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise StoreError(
                f"{self.url}: cannot put {key}: expected folders on the way to it, got an object, "
                "a link or another thing; use another key, or remove it (links are not followed)"
            ) from error

    def _linked(self, link: Link, key: str, folder: int) -> bool:
        """Give a file its name; False where an object has it."""
        name = key.rpartition("/")[2]
        try:
            link(name)
        except FileExistsError as error:
            if not is_in_the_way(name, folder):
                return False
            raise StoreError(
                f"{self.url}: cannot put {key}: expected an object or nothing at "
                f"{self.root / key}, got a folder, a link or another thing that is no object; use "
                "another key, or remove it"
            ) from error
        return True

    def _open(self, key: str) -> int | None:
        """Open an object's file; None where there is none."""
        *names, name = key.split("/")
        with forgiven(), Folders(self.root) as folders:
            return open_file(name, folders.enter(names))
        return None

    def _pieces(
        self, key: str, descriptor: int, found: os.stat_result, *, span: tuple[int, int]
    ) -> Generator[Buffer, None, None]:
        """The bytes of an open file behind an empty buffer, whose taker has them close the file."""
        start, stop = span
        try:
            yield b""
            with self._translated(f"get {key}"):
                while start < stop:
                    piece = os.pread(descriptor, min(_READ_BYTES, stop - start), start)
                    if not piece:
                        raise StoreError(
                            f"{self.url}: cannot get {key}: expected {stop} bytes, got {start}"
                        )
                    start += len(piece)
                    if start == stop:
                        self._check_unchanged(key, descriptor, found)
                    yield piece
        finally:
            os.close(descriptor)

    def _check_unchanged(self, key: str, descriptor: int, found: os.stat_result) -> None:
        """Refuse a file that somebody wrote to while it was read, as no store does."""
        now = os.fstat(descriptor)
        if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise StoreError(f"{self.url}: cannot get {key}: it was written to while it was read")

    def _keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix; what is no key and no file is skipped."""
        names = prefix.split("/") if prefix else []
        with (
            self._translated(f"list {prefix or 'all keys'}"),
            forgiven(),
            Folders(self.root) as folders,
            listed(".", folders.enter(names)) as folder,
        ):
            folders.close()
            yield from _keys_in(folder, prefix)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn a failure of the system into a StoreError that names the folder and the action."""
        try:
            yield
        except OSError as error:
            raise kind_of(error)(f"{self.url}: cannot {doing}: {error.strerror}") from error


def kind_of(error: OSError) -> type[StoreError]:
    """The class of StoreError that stands for a failure of the system."""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StoreDenied
    return StoreFull if error.errno in _FULL else StoreError


def _size_of(key: str, folders: Folders) -> int | None:
    *names, name = key.split("/")
    with forgiven():
        return file_size(name, folders.enter(names))
    return None


def _keys_in(folder: int, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if not is_key(key):
                continue
            if entry.is_file(follow_symlinks=False):
                yield key
            elif entry.is_dir(follow_symlinks=False):
                with forgiven(), listed(entry.name, folder) as inner:
                    yield from _keys_in(inner, key)
