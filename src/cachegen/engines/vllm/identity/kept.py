"""Fingerprints kept in the user's cache directory, so that weights are read once.

One small file for each model; several processes of an engine that ask at once compute it once.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from cachegen.loading.measurements import FOLDER_VARIABLE

_BYTES = 32


def kept(name: str, compute: Callable[[], bytes]) -> bytes:
    """The 32 bytes of this name, computed where they are not known yet.

    A folder that cannot be read or written to is done without.
    """
    path = _folder() / f"{name}.fingerprint"
    known = _read(path)
    if known is not None:
        return known
    with _alone(path):
        known = _read(path)
        if known is None:
            known = compute()
            with suppress(OSError):
                _write(path, known)
    return known


def _folder() -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    return (Path(named) if named else platformdirs.user_cache_path("cachegen")) / "fingerprints"


def _read(path: Path) -> bytes | None:
    try:
        found = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return found if len(found) == _BYTES else None


def _write(path: Path, found: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(found.hex())
    os.replace(name, path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for other processes that compute the same; it ends with a process that dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
