"""Digests of files and of settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_TAG = b"cachegen vllm identity 1"


def digest_of(parts: Mapping[str, Any]) -> bytes:
    """SHA-256 over named parts, in any order; nothing where there are none.

    Raises:
        TypeError: parts that are not JSON.
    """
    if not parts:
        return b""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(_TAG + text.encode()).digest()


def files_digest(paths: Iterable[Path]) -> bytes:
    """SHA-256 over names and every byte of some files.

    Raises:
        OSError: one cannot be read.
    """
    whole = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        whole.update(path.name.encode() + b"\0" + content)
    return whole.digest()


def state_of(path: Path) -> tuple[str, int, int, int]:
    """What changes when a file does: where it lies, its size, its last change, which file it is.

    Raises:
        OSError: there is none.
    """
    real = path.resolve()
    found = real.stat()
    return str(real), found.st_size, found.st_mtime_ns, found.st_ino
