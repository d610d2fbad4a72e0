"""Limits, order of eviction, and what readers see of objects that go away."""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cachegen.errors import KeyNotFound, StoreError, StoreFull, StoreTimeout
from cachegen.server.objects.bounded_store import BoundedStore
from cachegen.server.objects.index import Index
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


def test_what_is_only_looked_at_is_not_used(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store(capacity_bytes=200)
    for key in ("a", "b"):
        assert bounded_store.put(key, bytes(100))
    with bounded_store.reading("a", whole, peeks=True) as reading:
        assert b"".join(reading.buffers) == bytes(100)
    assert bounded_store.put("c", bytes(100))
    assert sorted(store.list()) == ["b", "c"]


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


def test_an_object_that_is_deleted_before_its_first_bytes(make_bounded_store: MakeStore) -> None:
    """It is gone, which is no failure of the store: before, a server answered 502."""
    bounded_store = make_bounded_store()
    bounded_store.put("a", b"1" * 100)
    with bounded_store.reading("a", whole) as reading:
        bounded_store.delete("a")
        assert bounded_store.put("a", b"2" * 100)
        with pytest.raises(KeyNotFound, match="deleted"):
            next(reading.buffers)


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


def test_empty_objects_and_deep_keys_are_not_free(store: Store) -> None:
    """Each segment is a folder or a file, of a block: the quota bounds them all."""
    index = Index(namespaces=frozenset({"t"}))
    bounded_store = BoundedStore(store, index=index)
    deep = "/".join("d" * 13)
    created = 0
    with pytest.raises(StoreFull, match="quota"):
        while True:
            created += bounded_store.put(f"t/{created}/{deep}/k", b"", quota_bytes=1_000_000)
    made = list(Path(store.url).rglob("*"))
    assert created == 1_000_000 // (16 * 4096)
    assert len(made) * 4096 <= 1_000_000
    for key in list(store.list()):
        bounded_store.delete(key)
    assert not list(Path(store.url).iterdir())
    assert index.holdings() == {}
    index.close()


def test_quotas_of_objects(make_bounded_store: MakeStore) -> None:
    bounded_store = make_bounded_store()
    for number in range(3):
        assert bounded_store.put(f"t/{number}", b"", quota_objects=3)
    with pytest.raises(StoreFull, match="no more objects than the quota of 3"):
        bounded_store.put("t/x", b"", quota_objects=3)
    with pytest.raises(StoreFull, match="no more objects than the quota of 3"):
        bounded_store.admits("t/x", 0, quota_objects=3)
    assert bounded_store.put("t/0", b"", quota_objects=3) is False
    assert bounded_store.put("u/x", b"", quota_objects=3)
    bounded_store.delete("t/1")
    assert bounded_store.put("t/x", b"", quota_objects=3)


def test_quotas_hold_among_threads(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store()

    def put(number: int) -> bool:
        try:
            return bounded_store.put(f"t/{number}", bytes(9), quota_bytes=200, quota_objects=20)
        except StoreFull:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(100))) == 20
    assert len(list(store.list())) == 20


def test_what_is_left(make_bounded_store: MakeStore) -> None:
    bounded_store = make_bounded_store(capacity_bytes=300)
    bounded_store.put("t/a", bytes(80))
    assert bounded_store.left_bytes("t/b") == 300
    assert bounded_store.left_bytes("t/b", quota_bytes=100) == 20
    assert bounded_store.left_bytes("t/b", quota_bytes=50) == 0
    assert make_bounded_store().left_bytes("t/b") is None


@pytest.fixture
def shared(store: Store) -> Iterator[BoundedStore]:
    """A store of three tenants, with a capacity."""
    index = Index(namespaces=frozenset("abc"))
    yield BoundedStore(store, index=index, capacity_bytes=3000, segment_bytes=0)
    index.close()


def test_who_takes_most_makes_room(shared: BoundedStore, store: Store) -> None:
    """However much one tenant puts, the others keep an equal part; nobody's part lies idle."""
    for number in range(9):
        shared.put(f"b/{number}", bytes(100))
    for number in range(50):
        assert shared.put(f"a/{number}", bytes(100))
    kept = sorted(store.list())
    assert kept == sorted([f"a/{n}" for n in range(29, 50)] + [f"b/{n}" for n in range(9)])
    for number in range(15):
        shared.put(f"c/{number}", bytes(100))
    held = {owner: found.size_bytes for owner, found in shared.index.holdings().items()}
    assert held["b"] == 900
    assert sorted([held["a"], held["c"]]) == [1000, 1100]


def test_nobody_pushes_others_below_their_part(shared: BoundedStore, store: Store) -> None:
    shared.put("b/own", bytes(1400))
    with pytest.raises(StoreFull, match="the equal parts of others"):
        shared.put("a/large", bytes(1700))
    assert list(store.list()) == ["b/own"]
    assert shared.put("a/fits", bytes(1600))
    assert shared.put("b/more", bytes(150)), "at the cost of a, which takes most"
    assert sorted(store.list()) == ["b/more", "b/own"]


def test_what_an_old_writer_may_still_write_counts(store: Store) -> None:
    index = Index(namespaces=frozenset())
    bounded_store = BoundedStore(store, index=index, capacity_bytes=3000, segment_bytes=0)
    (Path(store.url) / "#staging").mkdir()
    (Path(store.url) / "#staging" / "1").write_bytes(bytes(1000))
    bounded_store.sweep()
    for number in range(5):
        bounded_store.put(f"{number}", bytes(1000))
    assert sorted(store.list()) == ["3", "4"]
    (Path(store.url) / "#staging" / "1").unlink()
    bounded_store.sweep()
    bounded_store.put("5", bytes(1000))
    assert sorted(store.list()) == ["3", "4", "5"]
    index.close()


def replace(store: Store, key: str, data: bytes) -> None:
    """As another process does it."""
    store.delete(key)
    store.put(key, data)


@pytest.mark.parametrize("after", [b"", b"2", b"2" * 1000])
def test_what_others_replaced_is_found(
    make_bounded_store: MakeStore, store: Store, after: bytes
) -> None:
    bounded_store = make_bounded_store()
    bounded_store.put("k", b"1" * 100)
    replace(store, "k", after)
    assert content(bounded_store, "k") == after
    replace(store, "k", b"3" * 5)
    assert bounded_store.lookup(["k"]) == [5]
    assert bounded_store.index.stored_bytes() == 5
    store.delete("k")
    assert bounded_store.lookup(["k"]) == [None]
    assert (bounded_store.index.keys(), bounded_store.index.stored_bytes()) == ([], 0)
    assert bounded_store.put("k", b"4")
    assert content(bounded_store, "k") == b"4"


def test_a_range_is_of_what_is_there_now(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store()
    bounded_store.put("k", b"1" * 100)

    def last_ten(size_bytes: int) -> tuple[int, int]:
        if size_bytes < 10:
            raise LookupError(size_bytes)
        return size_bytes - 10, size_bytes

    for size_bytes in (50, 1000, 10):
        replace(store, "k", b"0" * (size_bytes - 10) + b"9" * 10)
        with bounded_store.reading("k", last_ten) as reading:
            assert (reading.size_bytes, b"".join(reading.buffers)) == (size_bytes, b"9" * 10)
    replace(store, "k", b"0" * 9)
    with pytest.raises(LookupError, match="9"), bounded_store.reading("k", last_ten):
        pass


class Unsized:
    """A store that does not tell the size of what it opens, and replaces it at that moment."""

    def __init__(self, store: Store) -> None:
        self.store, self.replaced = store, 0
        self.put, self.lookup = store.put, store.lookup
        self.delete, self.list = store.delete, store.list

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        if self.replaced:
            self.replaced -= 1
            replace(self.store, key, bytes(self.replaced + 200))
        return iter(list(self.store.get(key, range)))


def test_a_store_that_tells_no_size_is_asked_for_it(store: Store) -> None:
    index, unsized = Index(namespaces=frozenset()), Unsized(store)
    bounded_store = BoundedStore(unsized, index=index)
    bounded_store.put("k", bytes(100))
    assert content(bounded_store, "k") == bytes(100)
    unsized.replaced = 1
    assert content(bounded_store, "k") == bytes(200)
    unsized.replaced = 100
    with pytest.raises(StoreError, match="k: it is replaced again and again"):
        content(bounded_store, "k")
    index.close()


def test_a_scan_beside_requests(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store()
    for key in ("kept", "replaced", "removed"):
        bounded_store.put(key, bytes(10))
    bounded_store.put("child", bytes(10), parent="kept")
    replace(store, "replaced", bytes(20))
    store.delete("removed")
    store.put("new", bytes(5))
    rests: list[float] = []
    bounded_store.scan(rest=lambda seconds: bool(rests.append(seconds)))
    sizes = bounded_store.index.sizes(["kept", "replaced", "removed", "new", "child"])
    assert sizes == {"kept": 10, "replaced": 20, "new": 5, "child": 10}
    assert "kept" not in bounded_store.index.leaves(9)
    assert len(rests) == 1


def test_tidying_goes_on_until_the_end(make_bounded_store: MakeStore, store: Store) -> None:
    bounded_store = make_bounded_store()
    with bounded_store.tidying(scans=True, every_s=0.01):
        store.put("new", bytes(5))
        give_up_s = time.monotonic() + 5
        while bounded_store.index.size("new") is None:
            assert time.monotonic() < give_up_s
            time.sleep(0.005)
    assert not [thread for thread in threading.enumerate() if "tidy" in thread.name]


def test_listings_at_once_are_few(make_bounded_store: MakeStore) -> None:
    """Each keeps files open for as long as its client takes."""
    bounded_store = make_bounded_store()
    bounded_store.put("t/a", b"")
    with ExitStack() as stack:
        for _ in range(4):
            assert next(stack.enter_context(bounded_store.listing("t"))) == "t/a"
        with pytest.raises(StoreTimeout, match="try again later"):
            stack.enter_context(bounded_store.listing("t/a"))
        assert list(stack.enter_context(bounded_store.listing("u"))) == []
    with bounded_store.listing("t") as keys:
        assert list(keys) == ["t/a"]


MEASURED = """
import resource, sys
from cachegen.server.objects.bounded_store import BoundedStore
from cachegen.server.objects.index import Index
from cachegen.store import open_store
index = Index(sys.argv[2], namespaces=frozenset())
bounded_store = BoundedStore(open_store(sys.argv[1]), index=index)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    bounded_store.scan()
assert index.stored_objects() == 50000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow  # 50,000 files are made, in 2 s or more
def test_a_scan_takes_as_much_memory_for_many_objects_as_for_few(tmp_path: Path) -> None:
    """4.4 MB for 100,000, in lists and SQLite's cache; their names alone would take 11."""
    (tmp_path / "store" / "contexts").mkdir(parents=True)
    folder = os.open(tmp_path / "store" / "contexts", os.O_RDONLY)
    for number in range(50_000):
        os.mknod(f"{number:064}", dir_fd=folder)
    os.close(folder)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "store"), str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 6_000, "KiB"
