from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cachegen.errors import StoreError
from cachegen.server.index import Index

NONE: frozenset[str] = frozenset()


def leaf_keys(index: Index) -> list[str]:
    return index.leaves(100)


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
    assert leaf_keys(index) == ["a", "own"]


def test_sizes_are_summed_by_owner(index: Index) -> None:
    index.add("a/1", 10)
    index.add("b/1", 5)
    index.add("a/1", 12)
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
