"""What killed writers and removed objects left in a folder: files of theirs, and empty folders."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from cachegen.store.beneath import Folders, forgiven, listed
from cachegen.store.staging import sweep_files, sweep_staging

# Files that were being written when writers of before were killed; they lie beside the objects.
_FORMER = re.compile(r"[A-Za-z0-9._-]+#[0-9a-f]{16}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
# A bound on open folders: keys of before had up to 256 segments, which may have left folders.
_MAX_DEPTH = 256


def sweep(root: Path) -> int:
    """Sweep all folders below a root; the bytes of files that a writer may still be at.

    Nobody loses an object: a folder is removed while it is empty only, and a writer whose folder
    goes makes it again. What may not be read or changed stays.

    Raises:
        OSError: the folder cannot be read or written.
    """
    with forgiven(), Folders(root) as folders:
        now_s = time.time()
        kept_bytes = sweep_staging(folders.root, now_s=now_s)
        with listed(".", folders.root) as folder:
            return kept_bytes + _sweep(folder, depth=0, now_s=now_s)[0]
    return 0


def _sweep(folder: int, *, depth: int, now_s: float) -> tuple[int, bool]:
    """Sweep an open folder: bytes of files that are being written, and whether nothing is left."""
    kept_bytes, is_empty = 0, True
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry) and depth < _MAX_DEPTH:
                inner_bytes, is_gone = _sweep_inside(entry.name, folder, depth=depth, now_s=now_s)
            elif _FORMER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                inner_bytes = sweep_files(folder, [entry], now_s=now_s)
                is_gone = not inner_bytes
            else:
                inner_bytes, is_gone = 0, False
            kept_bytes += inner_bytes
            is_empty &= is_gone
    return kept_bytes, is_empty


def _sweep_inside(name: str, folder: int, *, depth: int, now_s: float) -> tuple[int, bool]:
    kept_bytes, is_gone = 0, False
    with suppress(PermissionError), forgiven(), listed(name, folder) as inner:
        kept_bytes, is_gone = _sweep(inner, depth=depth + 1, now_s=now_s)
    if is_gone:
        with suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    return kept_bytes, is_gone


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if _SEGMENT.fullmatch(entry.name) is None:
        return False
    return entry.is_dir(follow_symlinks=False)
