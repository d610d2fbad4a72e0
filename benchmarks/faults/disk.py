"""Saving to a full disk: a clean error, and what was stored before is as it was."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cachegen.contexts.save import save
from cachegen.errors import StoreError, StoreFull
from cachegen.loading.load import load
from cachegen.store import Store, open_store
from faults.model import FINGERPRINT, CausalModel

DISK_BYTES = 1 << 20
SMALL_TOKENS, LARGE_TOKENS = 128, 8192


def full_disk(folder: Path) -> dict[str, Any]:
    """Save a small context and then one that does not fit, on a disk of 1 MiB."""
    try:
        with small_disk(folder / "disk") as disk:
            return fill_up(disk)
    except OSError as error:
        return {"skipped": f"no small disk: {error}"}


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system in memory.

    Raises:
        OSError: it cannot be mounted here.
    """
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill_up(disk: Path) -> dict[str, Any]:
    """The error's kind and text, and whether the first context is intact and the second absent."""
    model, store = CausalModel(), open_store(disk)
    small, large = list(range(SMALL_TOKENS)), list(range(LARGE_TOKENS, 0, -1))
    keep(small, model, store)
    before = digests(disk)
    try:
        keep(large, model, store)
    except StoreError as error:
        kind, text = type(error), str(error)
    else:
        return {"error": None, "intact": False}
    after = digests(disk)
    return {
        "error": kind.__name__,
        "message": text.replace(str(disk), "DISK"),
        "intact": kind is StoreFull
        and all(after.get(name) == digest for name, digest in before.items())
        and loads_exactly(small, model, store)
        and is_absent(large, store),
    }


def keep(tokens: list[int], model: CausalModel, store: Store) -> None:
    save(
        model.kv(tokens),
        tokens=tokens,
        store=store,
        levels=["lossless"],
        chunk_tokens=64,
        fingerprint=FINGERPRINT,
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def loads_exactly(tokens: list[int], model: CausalModel, store: Store) -> bool:
    found = load(tokens, store=store, fingerprint=FINGERPRINT, level="lossless")
    if found.kv is None or found.num_tokens != len(tokens):
        return False
    pairs = zip(found.kv.planes(), model.kv(tokens).planes(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def is_absent(tokens: list[int], store: Store) -> bool:
    return load(tokens, store=store, fingerprint=FINGERPRINT).num_tokens == 0
