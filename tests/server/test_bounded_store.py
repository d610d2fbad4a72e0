"""Limits, order of eviction, and what readers see of objects that go away."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from cachegen.errors import KeyNotFound, StoreError, StoreFull
from cachegen.server.bounded_store import BoundedStore
from cachegen.server.index import Index
from cachegen.store import Store, open_store, read

MakeStore = Callable[..., BoundedStore]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def make_bounded_store(store: Store) -> Iterator[MakeStore]:
    index = Index(namespaces=frozenset({"t"}))
    yield functools.partial(BoundedStore, store, index=index, segment_bytes=0)
    index.close()


def whole(size_bytes: int) -> tuple[int, int]:
    return 0, size_bytes


def content(bounded_store: BoundedStore, key: str) -> bytes:
    with bounded_store.reading(key, whole) as reading:
        return b"".join(reading.buffers)


def test_the_least_recently_used_make_room(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    for key in ("a", "b", "c"):
        assert bounded_store.put(key, bytes(100))
    content(bounded_store, "a")
    bounded_store.lookup(["b"])
    assert bounded_store.put("d", bytes(150))
    assert sorted(store.list()) == ["b", "d"]
    assert bounded_store.index.stored_bytes() == 250


def test_a_chain_goes_from_its_end(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=400)
    for number in range(3):
        bounded_store.put(f"{number}", bytes(100), parent=f"{number - 1}" if number else None)
    bounded_store.put("free", bytes(100))
    bounded_store.lookup(["2"])
    bounded_store.put("new", bytes(100))
    assert sorted(store.list()) == ["0", "1", "2", "new"]
    bounded_store.put("more", bytes(200))
    assert sorted(store.list()) == ["0", "more", "new"]


def test_what_is_too_large_evicts_nothing(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    bounded_store.put("a", bytes(100))
    with pytest.raises(StoreFull, match="at most 300 bytes, got 301"):
        bounded_store.put("b", bytes(301))
    assert list(store.list()) == ["a"]


def test_what_is_admitted_can_be_put(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    bounded_store.put("t/a", bytes(100))
    assert bounded_store.admits("t/a", 100, quota_bytes=300) is False
    assert bounded_store.admits("t/b", 200, quota_bytes=300) is True
    with pytest.raises(StoreFull, match="within the quota of 300"):
        bounded_store.admits("t/b", 201, quota_bytes=300)
    assert bounded_store.admits("u/b", 300) is True
    with pytest.raises(StoreFull, match="at most 300 bytes, got 301"):
        bounded_store.admits("u/b", 301)
    assert list(store.list()) == ["t/a"]


def test_an_object_that_is_there_evicts_nothing(
    make_bounded_store: MakeStore, store: Store
) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    for key in ("a", "b"):
        bounded_store.put(key, bytes(150))
    assert bounded_store.put("b", bytes(300)) is False
    assert sorted(store.list()) == ["a", "b"]


def test_what_is_read_stays(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    bounded_store.put("a", b"x" * 200)
    with bounded_store.reading("a", whole) as reading:
        with pytest.raises(StoreFull, match="beside those in use"):
            bounded_store.put("b", bytes(200))
        assert b"".join(reading.buffers) == b"x" * 200
    assert bounded_store.put("b", bytes(200))
    assert list(store.list()) == ["b"]


def test_a_reader_of_a_deleted_object_never_gets_another_one(make_bounded_store: MakeStore) -> None:
    bounded_store = make_bounded_store()
    bounded_store.put("a", b"1" * (3 << 20))
    with bounded_store.reading("a", whole) as reading:
        assert bytes(next(reading.buffers)[:1]) == b"1"
        bounded_store.delete("a")
        assert bounded_store.put("a", b"2" * (3 << 20))
        with pytest.raises(StoreError, match="deleted while it was read"):
            list(reading.buffers)
    assert content(bounded_store, "a") == b"2" * (3 << 20)


def test_quotas_are_of_owners(make_bounded_store: MakeStore) -> None:
    bounded_store = make_bounded_store()
    bounded_store.put("t/a", bytes(80), quota_bytes=100)
    with pytest.raises(StoreFull, match="at most 20 more bytes within the quota of 100, got 21"):
        bounded_store.put("t/b", bytes(21), quota_bytes=100)
    assert bounded_store.put("u/b", bytes(21), quota_bytes=100)
    bounded_store.delete("t/a")
    assert bounded_store.put("t/b", bytes(21), quota_bytes=100)


def test_objects_of_other_writers_count(make_bounded_store: MakeStore, store: Store) -> None:
    store.put("old", bytes(100))
    bounded_store = make_bounded_store(capacity_bytes=150)
    bounded_store.index.add("vanished", 100)
    bounded_store.scan()
    assert (bounded_store.index.keys(), bounded_store.index.stored_bytes()) == (["old"], 100)
    store.put("new", bytes(20))
    assert bounded_store.lookup(["new", "none"]) == [20, None]
    store.delete("new")
    with pytest.raises(KeyNotFound):
        content(bounded_store, "new")
    assert bounded_store.lookup(["new"]) == [None]


def test_limits_hold_among_threads(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store, moments = make_bounded_store(capacity_bytes=20_000), random.Random(5)
    keys = [f"k{number}" for number in range(30)]

    def work(_: int) -> None:
        key = moments.choice(keys)
        data = key.encode() * 500
        try:
            assert content(bounded_store, key) == data
        except KeyNotFound:
            with suppress(StoreFull):  # all that nothing needs may be in use just then
                bounded_store.put(key, data, parent=moments.choice(keys))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1500)))
    stored = {key: len(read(store, key)) for key in store.list()}
    assert 8_000 < sum(stored.values()) <= 20_000
    known = bounded_store.index.keys()
    assert dict(zip(known, map(bounded_store.index.size, known), strict=True)) == stored
