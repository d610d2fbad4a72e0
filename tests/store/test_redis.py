"""What only Redis does: evict by its own rules, run out of memory, ask for a password."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

import pytest
import redis

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.store import open_store, read

MB = 10**6


@pytest.fixture
def server(redis_server: str) -> Iterator[redis.Redis]:
    """An own connection to an empty server, whose settings are put back afterwards."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("requirepass", "")
        client.flushall()


def limit(server: redis.Redis, size_bytes: int, policy: str) -> None:
    server.config_set("maxmemory", server.info("memory")["used_memory"] + size_bytes)
    server.config_set("maxmemory-policy", policy)


def test_eviction_leaves_whole_objects(server: redis.Redis, redis_server: str) -> None:
    store, source = open_store(redis_server), random.Random(8)
    limit(server, 8 * MB, "allkeys-lru")
    objects = {f"o/{number}": source.randbytes(400_000) for number in range(60)}
    for key, data in objects.items():
        assert store.put(key, data)
    kept = []
    for key, data in objects.items():
        with contextlib.suppress(KeyNotFound):
            assert read(store, key) == data
            kept.append(key)
    assert 3 <= len(kept) < 30


def test_an_object_that_goes_while_it_is_read(server: redis.Redis, redis_server: str) -> None:
    store = open_store(redis_server)
    store.put("k", bytes(20 * MB))
    pieces = store.get("k")
    next(pieces)
    store.delete("k")
    with pytest.raises(KeyNotFound, match="removed while it was read"):
        list(pieces)
    store.put("k", bytes(20 * MB))
    pieces = store.get("k")
    next(pieces)
    store.delete("k")
    store.put("k", bytes(10 * MB + 1))
    with pytest.raises(StoreError, match="while it was read"):
        list(pieces)


def test_pieces_are_small_and_an_early_end_disturbs_nobody(
    server: redis.Redis, redis_server: str
) -> None:
    store, data = open_store(redis_server), random.Random(9).randbytes(5 * MB)
    store.put("k", data)
    pieces = store.get("k")
    assert len(next(pieces)) <= 65536
    pieces.close()
    assert read(store, "k") == data
    assert b"".join(store.get("k", (70_000, 4 * MB))) == data[70_000 : 4 * MB]


def test_without_eviction_it_is_full(server: redis.Redis, redis_server: str) -> None:
    store = open_store(redis_server)
    store.put("first", b"1")
    limit(server, -1000, "noeviction")
    with pytest.raises(StoreFull, match="cannot put second"):
        store.put("second", bytes(MB))
    assert store.lookup(["first", "second"]) == [1, None]


def test_a_password(server: redis.Redis, redis_server: str) -> None:
    server.config_set("requirepass", "SECRET")
    host = redis_server.removeprefix("redis://")
    store = open_store(f"redis://:SECRET@{host}")
    store.put("k", b"1")
    assert read(store, "k") == b"1"
    assert "SECRET" not in store.url
    for credentials in ("", ":WRONG@"):
        with pytest.raises(StoreDenied) as failure:
            open_store(f"redis://{credentials}{host}").lookup(["k"])
        assert "WRONG" not in str(failure.value)


def test_keys_of_others_are_left_alone(server: redis.Redis, redis_server: str) -> None:
    server.set("other", "1")
    server.set("cachegen:not a key", "1")
    server.lpush("cachegen:list", "1")
    store = open_store(redis_server)
    store.put("k", b"1")
    assert set(store.list()) == {"k", "list"}
    with pytest.raises(StoreError, match="cannot look up"):
        store.lookup(["list"])


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreTimeout):
            open_store(f"redis://127.0.0.1:{port}", timeout_s=0.3).lookup(["k"])
    with pytest.raises(StoreError, match="refused"):
        open_store(f"redis://127.0.0.1:{port}", timeout_s=0.3).lookup(["k"])
