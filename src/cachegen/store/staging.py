"""Files that are being written: nameless where the system can, and swept where it cannot.

A nameless file (`O_TMPFILE`) ends with its writer, however that ends. Where a file system has none
the file gets a name that is no key, in a folder of its own. A writer that is killed leaves it
there, until somebody sweeps.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from cachegen.store.beneath import listed

STAGING = "#staging"
# A bound on how long a killed writer's file stays. Arbitrary: above the longest silence of a disk
# inside one write, so 600 to 86,400 s do; each write makes a file young again. Whoever is swept
# all the same gets a StoreError and no torn object.
STALE_S = 3600.0
_NAMELESS = getattr(os, "O_TMPFILE", 0) if os.path.isdir("/proc/self/fd") else 0
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)

Link = Callable[[str], None]


@contextmanager
def staged(data: memoryview, *, root: int, folder: int) -> Iterator[Link]:
    """A file that holds ``data`` and has no name yet; what is given names it inside ``folder``.

    Args:
        data: the bytes.
        root: the open folder that named files wait below.
        folder: the open folder that the file is for.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = _open_nameless(folder)
    if descriptor is None:
        with _named(data, root=root, folder=folder) as link:
            yield link
        return
    try:
        _write(descriptor, data)

        def link(name: str) -> None:
            source = f"/proc/self/fd/{descriptor}"
            os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)

        yield link
    finally:
        os.close(descriptor)


def sweep_staging(root: int, *, now_s: float) -> int:
    """Remove the named files that no writer is at; the bytes of the others.

    Raises:
        OSError: the folder cannot be read or written.
    """
    with suppress(FileNotFoundError), listed(STAGING, root) as staging:
        return sweep_files(staging, os.scandir(staging), now_s=now_s)
    return 0


def sweep_files(folder: int, entries: Iterable[os.DirEntry[str]], *, now_s: float) -> int:
    """Remove those of an open folder's files that no writer is at; the bytes of the others."""
    kept_bytes = 0
    for entry in entries:
        with suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            if now_s - found.st_mtime <= STALE_S or not _removed(entry.name, folder):
                kept_bytes += found.st_size
    return kept_bytes


def _removed(name: str, folder: int) -> bool:
    """Remove a file; False where that is not allowed."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return False
        raise
    return True


def _open_nameless(folder: int) -> int | None:
    """A nameless file, None where the file system has none."""
    if not _NAMELESS:
        return None
    try:
        return os.open(".", _NAMELESS | os.O_WRONLY, 0o666, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_NAMELESS:
            return None
        if os.fstat(folder).st_nlink == 0:  # some systems say that this is not permitted
            raise FileNotFoundError(errno.ENOENT, "the folder was removed") from error
        raise


@contextmanager
def _named(data: memoryview, *, root: int, folder: int) -> Iterator[Link]:
    with suppress(FileExistsError):
        os.mkdir(STAGING, dir_fd=root)
    with listed(STAGING, root) as staging:
        sweep_files(staging, os.scandir(staging), now_s=time.time())
        own = secrets.token_hex(8)
        descriptor = os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=staging)
        try:
            try:
                _write(descriptor, data)
            finally:
                os.close(descriptor)

            def link(name: str) -> None:
                os.link(own, name, src_dir_fd=staging, dst_dir_fd=folder, follow_symlinks=False)

            yield link
        finally:
            with suppress(FileNotFoundError):
                os.unlink(own, dir_fd=staging)


def _write(descriptor: int, data: memoryview) -> None:
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
