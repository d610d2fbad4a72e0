"""The writing half of the store contract: objects are created once, whole, or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachegen.errors import KeyNotFound
from cachegen.store import Store, read


def test_the_first_put_wins(store: Store) -> None:
    assert store.put("k", b"first") is True
    assert store.put("k", b"second, longer") is False
    assert read(store, "k") == b"first"
    assert store.lookup(["k"]) == [5]


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_put_takes_any_buffer(store: Store, wrap: type) -> None:
    store.put("k", wrap(b"some bytes"))
    assert read(store, "k") == b"some bytes"


def test_put_refuses_what_is_no_buffer(store: Store) -> None:
    with pytest.raises(TypeError):
        store.put("k", "text")
    assert store.lookup(["k"]) == [None]


def test_an_object_does_not_change_with_its_caller_s_buffer(store: Store) -> None:
    buffer = bytearray(b"before")
    store.put("k", buffer)
    buffer[:] = b"after!"
    assert read(store, "k") == b"before"


def test_put_with_a_parent(store: Store) -> None:
    store.put("parent", b"1")
    assert store.put("child", b"2", parent="parent")
    assert read(store, "child") == b"2"
    with pytest.raises(ValueError, match="expected a key"):
        store.put("other", b"3", parent="../parent")


def test_one_of_many_writers_creates(store: Store) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        return store.put("contested", bytes([number]) * 100_000)

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(write, range(8)))
        assert sum(created) == 1
        assert read(store, "contested") == bytes([created.index(True)]) * 100_000
        store.delete("contested")


def test_list_is_by_whole_segments(store: Store) -> None:
    for key in ("a/b/1", "a/b/2", "a/bc/3", "a/d", "e"):
        store.put(key, b"")
    assert sorted(store.list()) == ["a/b/1", "a/b/2", "a/bc/3", "a/d", "e"]
    assert sorted(store.list("a/b")) == ["a/b/1", "a/b/2"]
    assert sorted(store.list("a")) == ["a/b/1", "a/b/2", "a/bc/3", "a/d"]
    assert list(store.list("a/nothing")) == []


def test_list_of_many(store: Store) -> None:
    keys = {f"chunks/{number:03}" for number in range(170)}
    for key in keys:
        store.put(key, b"x")
    assert set(store.list("chunks")) == keys


def test_delete_removes_and_forgives(store: Store) -> None:
    store.put("k", b"1")
    store.delete("k")
    store.delete("k")
    assert store.lookup(["k"]) == [None]
    assert list(store.list()) == []
    with pytest.raises(KeyNotFound):
        store.get("k")
    assert store.put("k", b"2")
    assert read(store, "k") == b"2"


@pytest.mark.parametrize("key", ["../out", "/etc/x", "a//b", "a\\b", "a#1", "a?b", "%2e%2e/x"])
def test_what_is_not_a_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="expected a key"):
        store.put(key, b"1")
    with pytest.raises(ValueError, match="expected a key"):
        store.delete(key)
    with pytest.raises(ValueError, match="expected a key"):
        store.list(key)
    assert list(store.list()) == []
