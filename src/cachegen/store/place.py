"""Folders of stores: the path that a text means, and a check that it exists."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cachegen.errors import StoreError
from cachegen.store.folder import kind_of

# No key, so that it is no object.
LOCK = "#server"
# Arbitrary: 8 to 100 do; a process's number and a line's end.
_OWNER_BYTES = 20
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def absolute(text: str) -> Path:
    """The folder of a path: from ``~`` or the working directory, without ``..``.

    Raises:
        ValueError: the home folder of a user that does not exist.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise ValueError(
            f"expected the name of a user after '~', got {user!r}; write './{text}' for a folder "
            "of that name"
        )
    # POSIX lets two leading slashes mean something of their own, so that `abspath` keeps them.
    return Path("/" + os.path.abspath(expanded).lstrip("/"))


def check_folder(path: Path, *, create: bool) -> None:
    """Check that a folder exists; with `create` make it if it is missing.

    Raises:
        StoreError: the folder is missing, cannot be made, or the path is something else;
            StoreDenied or StoreFull where that is the reason.
    """
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{path}: expected a folder, but {_no_folder(path)} is none") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise StoreError(
                f"there is no folder {path}: save a context there first, or check the path"
            ) from error
        doing = "make" if create else "use"
        raise kind_of(error)(f"{path}: cannot {doing} the folder: {error.strerror}") from error
    if not is_folder:
        raise StoreError(f"{path}: expected a folder, but it is none")


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Be the only server of a folder while the context lasts.

    The system holds the lock and frees it when the process ends, however that ends. A folder that
    can only be read is not locked, as servers of it do not disturb each other; nor is one on a file
    system without locks.

    Raises:
        StoreError: another process serves the folder.
    """
    descriptor = _open_lock(path)
    try:
        if descriptor is not None:
            _lock(path, descriptor)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_lock(path: Path) -> int | None:
    """The open file of a lock; None where the folder can only be read."""
    try:
        return os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except PermissionError:
        # Made by another user: to hold it takes no right to write.
        with suppress(OSError):
            return os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
        return None
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise kind_of(error)(f"{path}: cannot lock the folder: {error.strerror}") from error


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, _OWNER_BYTES, 0).decode("ascii", errors="replace").strip()
        raise StoreError(
            f"{path}: expected to be its only server, but process {owner or 'unknown'} serves it; "
            "end that one, or use another folder"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise kind_of(error)(f"{path}: cannot lock the folder: {error.strerror}") from error
        return
    with suppress(OSError):  # a full disk, or another user's file: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _no_folder(path: Path) -> Path:
    """The first part of a path that exists and is no folder."""
    return next((part for part in (*path.parents[::-1], path) if not part.is_dir()), path)
