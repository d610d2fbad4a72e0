"""Stores that cannot be reached, or fail midway; engines that recompute the wrong thing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cachegen.errors import StoreDenied, StoreError, StoreTimeout
from cachegen.loading.resources import link_to, measurements_of
from cachegen.store import Store, open_store

TOKENS = list(range(300))


@pytest.fixture
def unreachable() -> Store:
    """A server that was there a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return open_store(f"http://127.0.0.1:{port}/", timeout_s=0.2)


def test_an_unreachable_store(toy, unreachable: Store) -> None:
    with pytest.raises(StoreError):
        toy.load(TOKENS, unreachable)


def test_an_unreachable_store_is_recomputed_around(toy, unreachable: Store) -> None:
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, unreachable, recompute=recompute, level="high")
    assert recompute.ranges == [(0, 300)]
    (chunk,) = result.chunks
    assert (chunk.start, chunk.stop, chunk.level, chunk.size_bytes) == (0, 300, "text", 0)
    assert "StoreError" in chunk.reason
    assert (result.num_tokens, result.exact) == (300, True)
    toy.check(result, TOKENS, exact=True)


@pytest.mark.parametrize("error", [StoreError, StoreTimeout])
def test_a_profile_that_cannot_be_had_costs_the_levels_that_need_it(toy, intercept, error) -> None:
    memory, asked = open_store("memory:"), []
    toy.save(TOKENS, memory, profile=toy.profile)

    def fail(key: str) -> None:
        asked.append(key)
        if key.startswith("profiles/"):
            raise error("down")

    result = toy.load(TOKENS, intercept(memory, before_get=fail))
    assert [chunk.level for chunk in result.chunks] == ["lossless"] * 3
    assert f"medium: {error.__name__}: down" in result.chunks[0].reason
    assert sum(key.startswith("chunks/") for key in asked) == 3
    toy.check(result, TOKENS, exact=True)


def test_a_lookup_that_fails_once_is_asked_again(toy) -> None:
    @dataclass
    class Moody:
        store: Store
        failures: int
        url = "memory:"

        def lookup(self, keys):
            if self.failures:
                self.failures -= 1
                raise StoreError("503")
            return self.store.lookup(keys)

        def get(self, key, range=None):
            return self.store.get(key, range)

    memory = open_store("memory:")
    toy.save(TOKENS, memory, levels=["raw"])
    longer = [*TOKENS, 7]
    assert toy.load(longer, Moody(memory, 2)).num_tokens == 256
    with pytest.raises(StoreError, match="503"):
        toy.load(longer, Moody(memory, 3))


@pytest.mark.parametrize(
    "error", [RecursionError("too deep"), UnicodeDecodeError("x", b"", 0, 1, "")]
)
def test_a_store_s_own_mistake_is_a_failure_of_the_store(toy, intercept, error) -> None:
    def fail(key: str) -> None:
        raise error

    memory = open_store("memory:")
    toy.save(TOKENS, memory, levels=["raw"])
    store = intercept(memory, before_get=fail)
    with pytest.raises(StoreError, match=type(error).__name__):
        toy.load(TOKENS, store)
    result = toy.load(TOKENS, store, recompute=toy.recompute(TOKENS))
    toy.check(result, TOKENS, exact=True)


def test_a_silent_store_is_waited_for_briefly_the_next_time(toy, intercept) -> None:
    memory, hold = open_store("memory:"), threading.Event()
    toy.save(TOKENS, memory, levels=["raw"])
    store = intercept(memory, before_get=lambda key: hold.wait(30))
    waits = []
    for _ in range(2):
        result = toy.load(TOKENS, store, recompute=toy.recompute(TOKENS), stall_s=0.2)
        waits.append(result.chunks[0].reason)
    hold.set()
    assert ["0.4 s" in waits[0], "0.05 s" in waits[1]] == [True, True]
    assert toy.load(TOKENS, memory).num_tokens == 300


def test_a_deadline_limits_the_lookup_where_there_is_a_model(toy, intercept) -> None:
    memory, hold = open_store("memory:"), threading.Event()
    toy.save(TOKENS, memory, levels=["raw"])
    store = intercept(memory, before_get=lambda key: hold.wait(30))
    result = toy.load(TOKENS, store, recompute=toy.recompute(TOKENS), slo_s=0.1)
    hold.set()
    assert "within 0.05 s" in result.chunks[0].reason
    link_to(memory.url, measurements_of(toy.fingerprint, "cpu")).went_silent(None)


@pytest.mark.parametrize("error", [StoreError, StoreTimeout])
def test_a_store_that_fails_before_the_first_chunk(toy, intercept, error) -> None:
    memory = open_store("memory:")
    toy.save(TOKENS, memory, profile=toy.profile)

    def fail(key: str) -> None:
        if key.startswith("contexts/"):
            raise error("down")

    with pytest.raises(error, match="down"):
        toy.load(TOKENS, intercept(memory, before_get=fail))
    result = toy.load(TOKENS, intercept(memory, before_get=fail), recompute=toy.recompute(TOKENS))
    assert [chunk.level for chunk in result.chunks] == ["text"]
    toy.check(result, TOKENS, exact=True)


@pytest.mark.parametrize(("error", "times"), [(StoreError, 2), (StoreTimeout, 1)])
def test_an_object_is_asked_for_again(toy, intercept, error, times: int) -> None:
    memory, asked = open_store("memory:"), []
    manifest = toy.save(TOKENS, memory, levels=["raw", "lossless"])
    failing = manifest.chunks[1].objects[0].key

    def fail(key: str) -> None:
        asked.append(key)
        if key == failing and asked.count(key) <= times:
            raise error("busy")

    result = toy.load(TOKENS, intercept(memory, before_get=fail), level="raw")
    assert [chunk.level for chunk in result.chunks] == ["raw"] * 3
    assert [chunk.retries for chunk in result.chunks] == [0, times, 0]
    assert result.chunks[1].reason == f"raw: {error.__name__}: busy"
    toy.check(result, TOKENS, exact=True)


def test_an_object_that_keeps_failing_comes_at_another_level(toy, intercept) -> None:
    memory = open_store("memory:")
    manifest = toy.save(TOKENS, memory, levels=["raw", "lossless"])
    failing = {stored.key for stored in manifest.chunks[1].objects if stored.level == "raw"}
    result = toy.load(TOKENS, intercept(memory, before_get=failure_at(failing)), level="raw")
    assert [chunk.level for chunk in result.chunks] == ["raw", "lossless", "raw"]
    toy.check(result, TOKENS, exact=True)


@pytest.mark.parametrize("recomputed", [True, False])
def test_a_chunk_that_fails_at_every_level(toy, intercept, recomputed: bool) -> None:
    """The store is given up in between, so the last chunk is not asked for either."""
    memory = open_store("memory:")
    manifest = toy.save(TOKENS, memory, levels=["raw", "lossless"])
    failing = {stored.key for stored in manifest.chunks[1].objects}
    recompute = toy.recompute(TOKENS) if recomputed else None
    store = intercept(memory, before_get=failure_at(failing))
    result = toy.load(TOKENS, store, level="raw", recompute=recompute)
    assert "down" in result.chunks[1].reason
    toy.check(result, TOKENS, exact=True)
    if recomputed:
        assert recompute.ranges == [(128, 256), (256, 300)]
        assert [chunk.level for chunk in result.chunks] == ["raw", "text", "text"]
    else:
        assert result.num_tokens == 128
        assert [chunk.level for chunk in result.chunks] == ["raw", None]


def test_a_store_that_refuses_is_soon_given_up(toy, intercept) -> None:
    memory, asked = open_store("memory:"), []
    toy.save(TOKENS, memory, levels=["raw", "lossless"])

    def refuse(key: str) -> None:
        if key.startswith("chunks/"):
            asked.append(key)
            raise StoreDenied("who are you?")

    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, intercept(memory, before_get=refuse), recompute=recompute)
    assert len(asked) == 3
    assert recompute.ranges == [(0, 128), (128, 256), (256, 300)]
    toy.check(result, TOKENS, exact=True)


def test_a_transfer_that_stalls_is_given_up(toy, intercept) -> None:
    memory, hold = open_store("memory:"), threading.Event()
    manifest = toy.save(TOKENS, memory, levels=["raw"])
    stuck = manifest.chunks[1].objects[0].key
    store = intercept(memory, before_get=lambda key: hold.wait(30) if key == stuck else None)
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, store, recompute=recompute, stall_s=0.1)
    hold.set()
    assert recompute.ranges == [(128, 256)]
    assert "StoreTimeout" in result.chunks[1].reason
    toy.check(result, TOKENS, exact=True)


def test_a_lookup_that_stalls_is_given_up(toy, intercept) -> None:
    memory, hold = open_store("memory:"), threading.Event()
    toy.save(TOKENS, memory, levels=["raw"])
    store = intercept(memory, before_get=lambda key: hold.wait(30))
    with pytest.raises(StoreTimeout, match="no answer within"):
        toy.load(TOKENS, store, stall_s=0.05)
    result = toy.load(TOKENS, store, stall_s=0.05, recompute=toy.recompute(TOKENS))
    hold.set()
    assert [chunk.level for chunk in result.chunks] == ["text"]
    toy.check(result, TOKENS, exact=True)


def failure_at(keys: set[str]) -> Callable[[str], None]:
    def fail(key: str) -> None:
        if key in keys:
            raise StoreError("down")

    return fail


def test_a_manifest_that_is_deleted_after_the_lookup(toy, intercept) -> None:
    memory = open_store("memory:")
    toy.save(TOKENS, memory, levels=["raw"])
    gone = []

    def delete(key: str) -> None:
        if key.startswith("contexts/") and memory.lookup([key]) != [None] and not gone:
            gone.append(key)
            memory.delete(key)

    result = toy.load([*TOKENS, 7], intercept(memory, before_get=delete))
    assert result.num_tokens == 128
    assert "KeyNotFound" in result.chunks[-1].reason
    toy.check(result, TOKENS, exact=True)


def test_a_recomputed_cache_must_fit(toy) -> None:
    store = open_store("memory:")
    manifest = toy.save(TOKENS, store, levels=["raw"])
    store.delete(manifest.chunks[1].objects[0].key)
    truth = toy.kv(TOKENS)
    for wrong, expected in (
        (truth.slice(0, 256), "tokens from 128 to 256, got 0 to 256"),
        (truth.slice(128, 255), "got 128 to 255"),
        (toy.window(TOKENS, held=150).slice(128, 256), "every layer"),
    ):
        with pytest.raises(ValueError, match=expected):
            toy.load(TOKENS, store, recompute=lambda tokens, *, past, wrong=wrong: wrong)


def test_an_engine_s_own_failure_is_the_caller_s(toy) -> None:
    store = open_store("memory:")
    manifest = toy.save(TOKENS, store, levels=["raw"])
    store.delete(manifest.chunks[0].objects[0].key)

    def recompute(tokens, *, past):
        raise MemoryError("no memory for the model")

    with pytest.raises(MemoryError):
        toy.load(TOKENS, store, recompute=recompute)
