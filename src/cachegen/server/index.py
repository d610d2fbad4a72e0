"""The objects of a store with size, parent and order of use: a table in SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cachegen.errors import StoreError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, parent TEXT, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON objects (used);
CREATE INDEX IF NOT EXISTS by_parent ON objects (parent);
"""
_LEAVES = """
SELECT key FROM objects AS candidate
WHERE NOT EXISTS (SELECT 1 FROM objects WHERE parent = candidate.key)
ORDER BY used LIMIT ?
"""
_SIZES = "SELECT key, size FROM objects WHERE key IN (SELECT value FROM json_each(?))"
_INSERT = """
INSERT OR REPLACE INTO objects VALUES (
    :key, :size, (SELECT key FROM objects WHERE key = :parent AND key <> :key), :used
)
"""


class Index:
    """The objects of a store in order of use; thread-safe. A file keeps the order over restarts.

    A parent is recorded only if it is there when its child is added, and is struck from its
    children when it is removed: so no cycle of parents can keep objects from eviction.
    """

    def __init__(self, path: Path | None = None, *, namespaces: frozenset[str]) -> None:
        self._lock = threading.Lock()
        self._namespaces = namespaces
        self._sizes: Counter[str] = Counter()
        self._path = path
        with self._translated():
            self._rows = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("PRAGMA synchronous=NORMAL")
            self._rows.executescript(_SCHEMA)
            (self._clock,) = self._rows.execute(
                "SELECT IFNULL(MAX(used), 0) FROM objects"
            ).fetchone()
            for key, size_bytes in self._rows.execute("SELECT key, size FROM objects"):
                self._count(key, size_bytes)

    def close(self) -> None:
        """Close the file; every change is in it already."""
        with self._lock, self._translated():
            self._rows.close()

    def size(self, key: str) -> int | None:
        """The size of an object in bytes, None where the index does not list it."""
        with self._transaction() as rows:
            return _size(rows, key)

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """The sizes of those objects that the index lists, in bytes."""
        with self._transaction() as rows:
            return dict(rows.execute(_SIZES, (json.dumps(list(keys)),)))

    def keys(self) -> list[str]:
        """The keys of all objects."""
        with self._transaction() as rows:
            return [key for (key,) in rows.execute("SELECT key FROM objects")]

    def add(self, key: str, size_bytes: int, *, parent: str | None = None) -> None:
        """List an object as used just now."""
        with self._transaction() as rows:
            self._count(key, size_bytes - (_size(rows, key) or 0))
            self._clock += 1
            row = {"key": key, "size": size_bytes, "parent": parent, "used": self._clock}
            rows.execute(_INSERT, row)

    def touch(self, keys: Iterable[str]) -> None:
        """Mark objects as used just now, the last one last."""
        with self._transaction() as rows:
            for key in keys:
                self._clock += 1
                rows.execute("UPDATE objects SET used = ? WHERE key = ?", (self._clock, key))

    def remove(self, key: str) -> None:
        """Strike an object from the index."""
        with self._transaction() as rows:
            size_bytes = _size(rows, key)
            if size_bytes is not None:
                self._count(key, -size_bytes)
                rows.execute("DELETE FROM objects WHERE key = ?", (key,))
                rows.execute("UPDATE objects SET parent = NULL WHERE parent = ?", (key,))

    def leaves(self, count: int) -> list[str]:
        """The keys of at most `count` objects without children, least recently used first."""
        with self._transaction() as rows:
            return [key for (key,) in rows.execute(_LEAVES, (count,))]

    def stored_bytes(self, namespace: str | None = None) -> int:
        """Bytes of all objects, or of those in a namespace."""
        with self._lock:
            return self._sizes.total() if namespace is None else self._sizes[namespace]

    def _count(self, key: str, size_bytes: int) -> None:
        self._sizes[self.namespace_of(key)] += size_bytes

    def namespace_of(self, key: str) -> str:
        """The namespace that a key is in; empty where it belongs to no tenant."""
        first = key.partition("/")[0]
        return first if first in self._namespaces else ""

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated(), self._rows as rows:
            yield rows

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            where = self._path or "memory"
            raise StoreError(
                f"index in {where}: {error}; it can be removed and is made again"
            ) from error


def _size(rows: sqlite3.Connection, key: str) -> int | None:
    found = rows.execute("SELECT size FROM objects WHERE key = ?", (key,)).fetchone()
    return None if found is None else int(found[0])
