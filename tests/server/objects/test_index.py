from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cachegen.errors import StoreError
from cachegen.server.objects.index import Holding, Index

NONE: frozenset[str] = frozenset()


def leaf_keys(index: Index) -> list[str]:
    return index.leaves(100, owner="") + index.leaves(100, owner="a")


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index(namespaces=frozenset({"a"}))
    yield made
    made.close()


def test_leaves_come_in_the_order_of_use(index: Index) -> None:
    for key in ("x", "y", "z"):
        index.add(key, 1)
    index.touch(["x"])
    assert leaf_keys(index) == ["y", "z", "x"]
    assert index.leaves(1) == ["y"]


def test_what_has_children_is_no_leaf(index: Index) -> None:
    index.add("parent", 1)
    index.add("child", 1, parent="parent")
    index.touch(["child"])
    assert leaf_keys(index) == ["child"]
    index.remove("child")
    assert leaf_keys(index) == ["parent"]


def test_parents_make_no_cycle(index: Index) -> None:
    index.add("a", 1, parent="b")
    index.add("b", 1, parent="a")
    index.remove("a")
    index.add("a", 1, parent="b")
    index.add("own", 1, parent="own")
    assert leaf_keys(index) == ["own", "a"]


def test_sizes_are_summed_by_owner(index: Index) -> None:
    index.add("a/1", 10)
    index.add("b/1", 5)
    index.resize("a/1", 12)
    index.resize("none", 12)
    assert (index.stored_bytes(), index.stored_bytes("a"), index.stored_bytes("")) == (17, 12, 5)
    index.remove("a/1")
    index.remove("a/1")
    assert index.stored_bytes("a") == 0


def test_a_file_keeps_use_and_parents(tmp_path: Path) -> None:
    index = Index(tmp_path / "index", namespaces=NONE)
    for key in ("x", "y"):
        index.add(key, 3)
    index.add("of y", 3, parent="y")
    index.touch(["x"])
    index.close()
    again = Index(tmp_path / "index", namespaces=NONE)
    assert leaf_keys(again) == ["of y", "x"]
    assert again.stored_bytes() == 9
    again.add("z", 1)
    assert leaf_keys(again) == ["of y", "x", "z"]
    again.close()


def test_a_file_that_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"something else" * 100)
    with pytest.raises(StoreError, match=r"index in .*can be removed"):
        Index(tmp_path / "index", namespaces=NONE)


def test_leaves_are_of_owners(index: Index) -> None:
    for key in ("a/1", "x", "a/2"):
        index.add(key, 1)
    assert (index.leaves(9, owner="a"), index.leaves(9)) == (["a/1", "a/2"], ["x"])


def test_holdings_are_counted(index: Index) -> None:
    index.add("a/1", 10)
    index.add("a/b/c", 5, parent="a/1")
    index.add("x", 2)
    assert index.holdings() == {"a": Holding(2, 15, 5), "": Holding(1, 2, 1)}
    assert (index.holding(), index.stored_objects()) == (Holding(3, 17, 6), 3)
    index.remove("a/1")
    index.remove("x")
    assert index.holdings() == {"a": Holding(1, 5, 3)}
    assert leaf_keys(index) == ["a/b/c"]


def test_another_size_keeps_what_needs_it(index: Index) -> None:
    for key, parent in (("1", None), ("2", "1"), ("3", "2")):
        index.add(key, 1, parent=parent)
    index.resize("2", 7)
    assert leaf_keys(index) == ["3"]
    index.remove("3")
    assert leaf_keys(index) == ["2"]
    index.add("1", 5)
    assert leaf_keys(index) == ["2"]
    index.remove("2")
    assert (leaf_keys(index), index.stored_bytes()) == (["1"], 5)


def test_what_was_not_seen(index: Index) -> None:
    index.add_unlisted({f"{n}": n for n in range(10)})
    index.add("3", 100)
    index.add_unlisted({"3": 1})
    assert index.size("3") == 100
    index.forget_seen()
    index.see(f"{n}" for n in range(0, 10, 2))
    assert index.unseen(3) == ["1", "3", "5"]
    assert index.unseen(3, after="5") == ["7", "9"]


BEFORE = """
CREATE TABLE objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, parent TEXT, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_use ON objects (used);
CREATE INDEX by_parent ON objects (parent);
INSERT INTO objects VALUES ('a/1', 10, NULL, 1), ('a/2', 10, 'a/1', 3), ('x', 5, NULL, 2);
"""


def test_a_file_of_before_keeps_use_and_parents(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "index")) as rows:
        rows.executescript(BEFORE)
    with closing(Index(tmp_path / "index", namespaces=frozenset({"a"}))) as index:
        assert leaf_keys(index) == ["x", "a/2"]
        index.remove("a/2")
        assert leaf_keys(index) == ["x", "a/1"]
    with closing(Index(tmp_path / "index", namespaces=NONE)) as index:
        assert index.leaves(9) == ["a/1", "x"], "nobody's, since the tenant is gone"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        closing(Index(tmp_path / "index", namespaces=NONE)),
        pytest.raises(StoreError, match="expected to be alone, but another process uses it"),
    ):
        Index(tmp_path / "index", namespaces=NONE)
    Index(tmp_path / "index", namespaces=NONE).close()


def test_a_leaf_is_found_as_fast_among_many_that_are_none(index: Index) -> None:
    """A tenant can make a long chain, all of which would else be looked at for every eviction."""

    def search_s() -> float:
        began_s = time.perf_counter()
        assert index.leaves(1) == ["last"]
        return time.perf_counter() - began_s

    index.add("0", 1)
    index.add("last", 1, parent="0")
    few_s = min(search_s() for _ in range(20))
    index.remove("last")
    for number in range(5000):
        index.add(f"{number + 1}", 1, parent=f"{number}")
    index.add("last", 1, parent="5000")
    assert min(search_s() for _ in range(20)) < 5 * few_s
