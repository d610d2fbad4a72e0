"""The reading half of the store contract: memory, files, and files behind an HTTP server."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachegen.errors import KeyNotFound, StoreError
from cachegen.store import Store, read

Pair = tuple[Store, Store]
MIB = 1 << 20


@pytest.mark.parametrize("size_bytes", [0, 1, 100, MIB - 1, MIB, MIB + 1, 3_000_017])
def test_get_returns_what_was_put(pair: Pair, size_bytes: int) -> None:
    writer, reader = pair
    data = random.Random(size_bytes).randbytes(size_bytes)
    assert writer.put("a/b.c/d-e_f", data)
    assert read(reader, "a/b.c/d-e_f") == data


def test_get_follows_one_object_per_key(pair: Pair) -> None:
    writer, reader = pair
    for number in range(20):
        writer.put(f"n/{number}", str(number).encode())
    assert [read(reader, f"n/{n}") for n in range(20)] == [str(n).encode() for n in range(20)]


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 10), (3, 7), (9, 10), (4, 100)])
def test_get_of_a_range_returns_the_bytes_that_exist(pair: Pair, start: int, stop: int) -> None:
    writer, reader = pair
    writer.put("k", b"0123456789")
    assert b"".join(reader.get("k", (start, stop))) == b"0123456789"[start:stop]


def test_what_is_opened_tells_the_size_of_the_whole(
    pair: Pair, request: pytest.FixtureRequest
) -> None:
    """So that `cachegen serve` says the size of what it sends, whoever replaced it meanwhile."""
    writer, reader = pair
    writer.put("k", b"0123456789")
    if request.node.callspec.params["pair"] not in ("server", "http", "nginx"):
        assert [reader.get("k").size_bytes, reader.get("k", (2, 5)).size_bytes] == [10, 10]


def test_what_is_opened_tells_when_it_was_written_where_the_store_knows(
    pair: Pair, request: pytest.FixtureRequest
) -> None:
    writer, reader = pair
    before_s = time.time()
    writer.put("k", b"0123456789")
    opened = reader.get("k")
    assert b"".join(opened) == b"0123456789"
    if request.node.callspec.params["pair"] in ("memory", "redis"):
        assert opened.modified_s is None
    else:
        assert before_s - 2 < opened.modified_s < time.time() + 2


def test_a_range_behind_the_end_is_an_error(pair: Pair) -> None:
    writer, reader = pair
    writer.put("k", b"0123456789")
    with pytest.raises(StoreError, match="k"):
        list(reader.get("k", (10, 12)))


@pytest.mark.parametrize("bad", [(0, 0), (3, 3), (4, 2), (-1, 2)])
def test_a_range_that_is_none_is_refused(pair: Pair, bad: tuple[int, int]) -> None:
    writer, reader = pair
    writer.put("k", b"0123456789")
    with pytest.raises(ValueError, match="start < stop"):
        reader.get("k", bad)


def test_get_of_nothing_names_the_key(pair: Pair) -> None:
    _, reader = pair
    with pytest.raises(KeyNotFound, match="nothing/here"):
        list(reader.get("nothing/here"))


def test_lookup_keeps_the_order_asked(pair: Pair) -> None:
    writer, reader = pair
    for size_bytes in (5, 0, 700):
        writer.put(f"s/{size_bytes}", bytes(size_bytes))
    asked = ["s/700", "none", "s/0", "s/5", "s/700", "s/none"]
    assert reader.lookup(asked) == [700, None, 0, 5, 700, None]
    assert reader.lookup([]) == []


def test_lookup_of_many_keys(pair: Pair) -> None:
    writer, reader = pair
    present = set(random.Random(1).sample(range(150), 20))
    for number in present:
        writer.put(f"m/{number}", bytes(number))
    found = reader.lookup([f"m/{number}" for number in range(150)])
    assert found == [number if number in present else None for number in range(150)]


def test_a_large_object_arrives_in_parts(pair: Pair, request: pytest.FixtureRequest) -> None:
    writer, reader = pair
    writer.put("big", bytes(5 * MIB))
    parts = [len(part) for part in reader.get("big")]
    assert sum(parts) == 5 * MIB
    in_memory = "memory" in request.node.callspec.id
    assert len(parts) == 1 if in_memory else len(parts) >= 3


def test_reading_is_thread_safe(pair: Pair) -> None:
    writer, reader = pair
    content = {f"t/{n}": random.Random(n).randbytes(10_000 + n) for n in range(16)}
    for key, data in content.items():
        writer.put(key, data)
    with ThreadPoolExecutor(8) as pool:
        read_back = list(pool.map(lambda key: (key, read(reader, key)), list(content) * 4))
    assert all(content[key] == data for key, data in read_back)


def test_read_refuses_more_than_its_limit(pair: Pair) -> None:
    writer, reader = pair
    writer.put("k", bytes(1000))
    assert read(reader, "k", max_bytes=1000) == bytes(1000)
    with pytest.raises(StoreError, match="k: expected at most 999"):
        read(reader, "k", max_bytes=999)


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a b", "ä", "a" * 201, "a/" * 16 + "a"]
)
def test_what_is_not_a_key_is_refused(pair: Pair, key: str) -> None:
    _, reader = pair
    with pytest.raises(ValueError, match="expected a key"):
        reader.get(key)
    with pytest.raises(ValueError, match="expected a key"):
        reader.lookup(["fine", key])
