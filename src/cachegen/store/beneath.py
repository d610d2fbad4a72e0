"""Folders and files below a root, reached one segment after the other: no link is followed.

A path with a link in it could lead out of the store, and a check of the path before its use leaves
a moment in between. So every folder is opened inside the one before it, and a link is refused by
the system (`O_NOFOLLOW`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

# Without O_PATH, which needs no right to list a folder, on other systems than Linux.
_PASSING = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
_LISTING = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_RDONLY
# Without waiting for the other end of a pipe.
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


class Folders:
    """A chain of open folders from a root, moved from one folder to the next.

    It keeps what two folders have in common open, at most one folder for each segment of a key.
    """

    def __init__(self, root: Path, *, make: bool = False) -> None:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        self._names: list[str] = []
        self._opened = [os.open(root, _PASSING)]

    def __enter__(self) -> Folders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all folders; it cannot be used any more."""
        while self._opened:
            os.close(self._opened.pop())

    @property
    def root(self) -> int:
        """The root's descriptor."""
        return self._opened[0]

    def enter(self, names: Sequence[str], *, make: bool = False) -> int:
        """Open the folder at ``names`` below the root; with ``make`` make it where it is missing.

        Its descriptor is good until the next call.

        Raises:
            OSError: there is no such folder, or something else is on the way to it.
        """
        shared = _num_shared(self._names, names)
        while len(self._names) > shared:
            self._leave()
        for name in names[shared:]:
            self._opened.append(_open_folder(name, self._opened[-1], make=make))
            self._names.append(name)
        return self._opened[-1]

    def prune(self) -> None:
        """Remove the folder that was entered last and those above it, as far as they are empty."""
        while self._names:
            name = self._leave()
            try:
                os.rmdir(name, dir_fd=self._opened[-1])
            except OSError:
                return

    def _leave(self) -> str:
        os.close(self._opened.pop())
        return self._names.pop()


def file_size(name: str, folder: int) -> int | None:
    """The size of a file in an open folder; None where there is none."""
    with forgiven():
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    return None


def is_in_the_way(name: str, folder: int) -> bool:
    """Whether an open folder holds something else than a file under a name."""
    with forgiven():
        return not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def open_file(name: str, folder: int) -> int:
    """Open a file in an open folder for reading.

    Raises:
        OSError: there is none.
    """
    descriptor = os.open(name, _READING, dir_fd=folder)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "not a file", name)


@contextmanager
def listed(name: str, folder: int) -> Iterator[int]:
    """A folder inside an open one while the context lasts, open for listing."""
    descriptor = os.open(name, _LISTING, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def forgiven() -> Iterator[None]:
    """Pass over failures that mean that nothing is at a path."""
    try:
        yield
    except OSError as error:
        if error.errno not in ABSENT:
            raise


def _open_folder(name: str, folder: int, *, make: bool) -> int:
    try:
        return os.open(name, _PASSING | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _PASSING | os.O_NOFOLLOW, dir_fd=folder)


def _num_shared(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
