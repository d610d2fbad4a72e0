"""What lies on the server's disk, and what its index and metrics say of it."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

# (objects, bytes) by the folder of a tenant.
Held = dict[str, tuple[int, int]]


def on_disk(store: Path) -> Held:
    """The files below each tenant's folder."""
    held: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for path in store.rglob("*"):
        if path.is_file() and path.parent != store:
            owner = path.relative_to(store).parts[0]
            objects, size_bytes = held[owner]
            held[owner] = objects + 1, size_bytes + path.stat().st_size
    return dict(held)


def empty_folders(store: Path) -> list[str]:
    """Folders without anything in them."""
    return [
        str(p.relative_to(store)) for p in store.rglob("*") if p.is_dir() and not any(p.iterdir())
    ]


def in_index(path: Path) -> Held:
    """What the index of a server that has ended lists."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as rows:
        query = "SELECT owner, COUNT(*), SUM(size) FROM objects GROUP BY owner"
        return {owner: (count, size) for owner, count, size in rows.execute(query)}


def total(held: Held) -> tuple[int, int]:
    """Of all tenants."""
    return sum(count for count, _ in held.values()), sum(size for _, size in held.values())
