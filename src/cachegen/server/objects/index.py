"""The objects of a store with size, parent, owner and order of use: a table in SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cachegen.errors import StoreError

# Arbitrary: 0 to 5 s do, for a server that is just ending.
_LOCK_S = 1.0
# `children` and the partial index make the search for a leaf take as long among a million objects
# that need each other as among ten.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, parent TEXT, used INTEGER NOT NULL,
    owner TEXT NOT NULL DEFAULT '', children INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_INDICES = """
DROP INDEX IF EXISTS by_use;
CREATE INDEX IF NOT EXISTS by_parent ON objects (parent);
CREATE INDEX IF NOT EXISTS leaves ON objects (owner, used) WHERE children = 0;
CREATE TEMP TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_FROM_BEFORE = """
ALTER TABLE objects ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE objects ADD COLUMN children INTEGER NOT NULL DEFAULT 0;
UPDATE objects
SET children = (SELECT COUNT(*) FROM objects AS child WHERE child.parent = objects.key);
"""
_LEAVES = "SELECT key FROM objects WHERE owner = ? AND children = 0 ORDER BY used LIMIT ?"
_SIZES = "SELECT key, size FROM objects WHERE key IN (SELECT value FROM json_each(?))"
_INSERT = """
INSERT INTO objects (key, size, parent, used, owner) VALUES (
    :key, :size, (SELECT key FROM objects WHERE key = :parent AND key <> :key), :used, :owner
)
"""
_ADOPTED = "UPDATE objects SET children = children + ? WHERE key = ?"
_UNSEEN = """
SELECT key FROM objects WHERE key > ? AND key NOT IN (SELECT key FROM seen) ORDER BY key LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Holding:
    """What somebody's objects are together.

    Attributes:
        objects: how many there are.
        size_bytes: the bytes in them.
        segments: how many segments their keys have, each of which may be a folder or a file.
    """

    objects: int = 0
    size_bytes: int = 0
    segments: int = 0

    def plus(self, key: str, size_bytes: int, *, sign: int = 1) -> Holding:
        """With an object more; with a ``sign`` of -1, without it."""
        return Holding(
            self.objects + sign,
            self.size_bytes + sign * size_bytes,
            self.segments + sign * num_segments(key),
        )

    def and_(self, other: Holding) -> Holding:
        """Both together."""
        return Holding(
            self.objects + other.objects,
            self.size_bytes + other.size_bytes,
            self.segments + other.segments,
        )


def num_segments(key: str) -> int:
    """How many segments a key has."""
    return key.count("/") + 1


class Index:
    """The objects of a store in order of use; thread-safe. A file keeps the order over restarts.

    A parent is recorded only if it is there when its child is added, and is struck from its
    children when it is removed: so no cycle of parents can keep objects from eviction. One process
    at a time uses a file.

    Attributes:
        path: the file; None: it is in memory.
    """

    def __init__(self, path: Path | None = None, *, namespaces: frozenset[str]) -> None:
        self._lock = threading.Lock()
        self._namespaces = namespaces
        self._holdings: defaultdict[str, Holding] = defaultdict(Holding)
        self.path = path
        with self._translated():
            self._rows = sqlite3.connect(
                path or ":memory:", timeout=_LOCK_S, check_same_thread=False
            )
            # A lock of the system, which ends with the process; journals are then in this one only.
            self._rows.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("PRAGMA synchronous=NORMAL")
            self._make_tables()
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
        """List an object as used just now. One that is listed keeps its children, no parent."""
        with self._transaction() as rows:
            children = self._strike(rows, key)
            self._clock += 1
            row = {"key": key, "size": size_bytes, "parent": parent, "used": self._clock}
            rows.execute(_INSERT, {**row, "owner": self.namespace_of(key)})
            rows.execute(_ADOPTED, (children, key))
            rows.execute(_ADOPTED, (1, _parent(rows, key)))
            self._count(key, size_bytes)

    def add_unlisted(self, sizes: Mapping[str, int]) -> None:
        """List those of many objects that are not listed yet, in one step."""
        with self._transaction() as rows:
            for key, size_bytes in sizes.items():
                if _size(rows, key) is None:
                    self._clock += 1
                    row = {"key": key, "size": size_bytes, "parent": None, "used": self._clock}
                    rows.execute(_INSERT, {**row, "owner": self.namespace_of(key)})
                    self._count(key, size_bytes)

    def resize(self, key: str, size_bytes: int) -> None:
        """Note another size of a listed object; what needs it and what it needs stays."""
        with self._transaction() as rows:
            before_bytes = _size(rows, key)
            if before_bytes is not None:
                rows.execute("UPDATE objects SET size = ? WHERE key = ?", (size_bytes, key))
                self._count(key, before_bytes, sign=-1)
                self._count(key, size_bytes)

    def touch(self, keys: Iterable[str]) -> None:
        """Mark objects as used just now, the last one last."""
        with self._transaction() as rows:
            for key in keys:
                self._clock += 1
                rows.execute("UPDATE objects SET used = ? WHERE key = ?", (self._clock, key))

    def remove(self, key: str) -> None:
        """Strike an object from the index."""
        with self._transaction() as rows:
            self._strike(rows, key)
            rows.execute("UPDATE objects SET parent = NULL WHERE parent = ?", (key,))

    def leaves(self, count: int, *, owner: str = "") -> list[str]:
        """The keys of at most `count` objects of an owner that have no children, oldest use first.

        The owner is a namespace, or empty for what belongs to no tenant.
        """
        with self._transaction() as rows:
            return [key for (key,) in rows.execute(_LEAVES, (owner, count))]

    def stored_bytes(self, namespace: str | None = None) -> int:
        """Bytes of all objects, or of those in a namespace."""
        return self.holding(namespace).size_bytes

    def stored_objects(self) -> int:
        """How many objects there are."""
        return self.holding().objects

    def holding(self, namespace: str | None = None) -> Holding:
        """What all objects are together, or those in a namespace."""
        with self._lock:
            if namespace is not None:
                return self._holdings.get(namespace, Holding())
            total = Holding()
            for holding in self._holdings.values():
                total = total.and_(holding)
            return total

    def holdings(self) -> dict[str, Holding]:
        """What each owner has: a namespace, or empty for what belongs to no tenant."""
        with self._lock:
            return {owner: found for owner, found in self._holdings.items() if found.objects}

    def namespace_of(self, key: str) -> str:
        """The namespace that a key is in; empty where it belongs to no tenant."""
        first = key.partition("/")[0]
        return first if first in self._namespaces else ""

    def forget_seen(self) -> None:
        """Begin to note which objects are there."""
        with self._transaction() as rows:
            rows.execute("DELETE FROM seen")

    def see(self, keys: Iterable[str]) -> None:
        """Note that objects are there."""
        with self._transaction() as rows:
            rows.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((key,) for key in keys))

    def unseen(self, count: int, *, after: str = "") -> list[str]:
        """At most `count` keys behind one, in order, of objects not noted since `forget_seen`."""
        with self._transaction() as rows:
            return [key for (key,) in rows.execute(_UNSEEN, (after, count))]

    def _make_tables(self) -> None:
        self._rows.executescript(_SCHEMA)
        columns = {name for _, name, *_ in self._rows.execute("PRAGMA table_info(objects)")}
        if "owner" not in columns:
            self._rows.executescript(f"BEGIN; {_FROM_BEFORE} COMMIT;")
        self._rows.create_function("owner_of", 1, self.namespace_of, deterministic=True)
        with self._rows as rows:
            rows.execute("UPDATE objects SET owner = owner_of(key) WHERE owner <> owner_of(key)")
        self._rows.executescript(_INDICES)

    def _strike(self, rows: sqlite3.Connection, key: str) -> int:
        """Take an object out; the number of its children."""
        size_bytes = _size(rows, key)
        if size_bytes is None:
            return 0
        rows.execute(_ADOPTED, (-1, _parent(rows, key)))
        (children,) = rows.execute("SELECT children FROM objects WHERE key = ?", (key,)).fetchone()
        rows.execute("DELETE FROM objects WHERE key = ?", (key,))
        self._count(key, size_bytes, sign=-1)
        return int(children)

    def _count(self, key: str, size_bytes: int, *, sign: int = 1) -> None:
        owner = self.namespace_of(key)
        self._holdings[owner] = self._holdings[owner].plus(key, size_bytes, sign=sign)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated(), self._rows as rows:
            yield rows

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            where = self.path or "memory"
            if "locked" in str(error):
                raise StoreError(
                    f"index in {where}: expected to be alone, but another process uses it; give "
                    "each server an index of its own"
                ) from error
            raise StoreError(
                f"index in {where}: {error}; it can be removed and is made again"
            ) from error


def _size(rows: sqlite3.Connection, key: str) -> int | None:
    found = rows.execute("SELECT size FROM objects WHERE key = ?", (key,)).fetchone()
    return None if found is None else int(found[0])


def _parent(rows: sqlite3.Connection, key: str) -> str | None:
    found = rows.execute("SELECT parent FROM objects WHERE key = ?", (key,)).fetchone()
    return None if found is None else found[0]
