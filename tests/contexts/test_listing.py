"""What a store is said to hold, and what saying it may cost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachegen.bitstream.manifest import manifest_key
from cachegen.contexts import listing as module
from cachegen.contexts.listing import list_contexts
from cachegen.errors import StoreDenied, StoreError
from cachegen.store import Store, open_store
from cachegen.store.protocol import Buffer
from tests.hostile import MIB, measured

A, B = list(range(500)), [*range(256), *[7] * 200]


def names(found) -> list[bytes]:
    return sorted(context.context_id for context in found.contexts)


def test_every_context_is_listed_once_however_many_manifests_it_has(toy, store) -> None:
    saved = [toy.save(tokens, store, levels=["high"], profile=toy.profile) for tokens in (A, B)]
    assert len(list(store.list("contexts"))) > 6
    found = list_contexts(store)
    assert names(found) == sorted(manifest.context_id for manifest in saved)
    assert {context.num_tokens for context in found.contexts} == {500, 456}
    assert not found.left_out and not found.num_unreadable
    sizes = {o.key: o.size_bytes for m in saved for chunk in m.chunks for o in chunk.objects}
    assert found.size_bytes == sum(sizes.values())
    own = {context.num_tokens: context.own_bytes for context in found.contexts}
    shared = sum(o.size_bytes for chunk in saved[0].chunks[:2] for o in chunk.objects)
    for context in found.contexts:
        assert context.size_bytes - own[context.num_tokens] == shared
        assert context.fingerprint == toy.fingerprint
        assert context.profiles == (toy.profile.hash,)
        assert context.levels["high"].num_chunks == 4


def test_a_context_that_was_extended_is_a_part_of_the_longer_one(toy, store) -> None:
    toy.save(A[:256], store, levels=["lossless"])
    whole = toy.save(A, store, levels=["lossless"])
    assert names(list_contexts(store)) == [whole.context_id]


def test_salts_models_and_inexact_contexts_are_apart(toy, store) -> None:
    toy.save(A, store, levels=["high"], profile=toy.profile)
    toy.save(A, store, levels=["high"], profile=toy.profile, salt=b"tenant")
    toy.save(A, store, levels=["high"], profile=toy.profile, exact=False)
    toy.save(A, store, levels=["lossless"], fingerprint=bytes(32))
    found = list_contexts(store).contexts
    assert len(found) == 4
    assert sorted(context.exact for context in found) == [False, True, True, True]
    assert {context.fingerprint for context in found} == {toy.fingerprint, bytes(32)}


def test_ages_are_those_of_files_and_unknown_elsewhere(toy, tmp_path) -> None:
    store = open_store(tmp_path)
    manifest = toy.save(A, store, levels=["lossless"])
    os.utime(tmp_path / manifest_key(manifest.context_id), (1e9, 1e9))
    assert [context.modified_s for context in list_contexts(store).contexts] == [1e9]
    memory = open_store("memory:")
    toy.save(A, memory, levels=["lossless"])
    assert [context.modified_s for context in list_contexts(memory).contexts] == [None]


def test_folders_of_tenants_are_apart(toy, tmp_path: Path) -> None:
    for root in ("", "t-1"):
        toy.save(A, open_store(tmp_path / root), levels=["lossless"])
    found = list_contexts(open_store(tmp_path), roots=["", "t-1"])
    assert sorted(context.root for context in found.contexts) == ["", "t-1"]
    assert all(context.own_bytes == context.size_bytes for context in found.contexts)


def test_damage_is_told_of_and_ends_nothing(toy, store) -> None:
    other = toy.save(B, store, levels=["lossless"])
    for number, data in enumerate((b"", b"junk", other.to_bytes(), bytes(17 * MIB))):
        store.put(manifest_key(bytes([number]) * 32), data)
    store.put("contexts/no-id", b"not ours")
    found = list_contexts(store)
    assert names(found) == [other.context_id]
    assert found.num_unreadable == 4
    assert dict(found.unreadable)[manifest_key(bytes([2]) * 32)].endswith("another context")


class Lying:
    """A store of so many manifests, which are what a function says."""

    url = "lying:"

    def __init__(self, count: int, answer) -> None:
        self.count, self.answer, self.reads = count, answer, 0

    def list(self, prefix: str = "") -> Iterator[str]:
        return (manifest_key(number.to_bytes(32, "big")) for number in range(self.count))

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        self.reads += 1
        return iter(self.answer(key))


def pouring(key: str) -> Iterator[bytes]:
    while True:
        yield bytes(MIB)


def test_endless_manifests_cost_little() -> None:
    store = Lying(12, pouring)
    with measured() as cost:
        found = list_contexts(store)  # type: ignore[arg-type]
    assert found.num_unreadable == 12
    assert cost.num_bytes < 2 * 8 * 18 * MIB


def test_manifests_are_read_up_to_a_most_and_the_rest_is_told_of() -> None:
    store = Lying(100_000, lambda key: [b"junk"])
    found = list_contexts(store, max_bytes=100 * 4096)  # type: ignore[arg-type]
    assert "manifests take more than 0 MB" in found.left_out
    assert found.num_unreadable == 100 and len(found.unreadable) == 100
    assert store.reads < 120


def test_names_are_kept_up_to_a_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NAMES", 10)
    store = Lying(100, lambda key: [b"junk"])
    found = list_contexts(store)  # type: ignore[arg-type]
    assert found.left_out == "the store has more than 10 manifests"
    assert store.reads == 10


def test_a_store_that_dribbles_is_left_in_time() -> None:
    ended = threading.Event()

    def dribble(key: str) -> Iterator[bytes]:
        yield b"{"
        ended.wait(20)

    threading.Timer(1.0, ended.set).start()
    found = list_contexts(Lying(3, dribble), max_s=0.2)  # type: ignore[arg-type]
    assert found.left_out == "the store is slow: not all manifests were read in time"
    assert not found.contexts


@pytest.mark.parametrize(("error", "reads"), [(StoreError("no"), 40), (StoreDenied("no"), 20)])
def test_a_store_that_fails_again_and_again_has_failed(error: StoreError, reads: int) -> None:
    def fail(key: str) -> list[bytes]:
        raise error

    store = Lying(1000, fail)
    with pytest.raises(type(error)):
        list_contexts(store)  # type: ignore[arg-type]
    assert store.reads < reads


def test_one_failure_is_told_of(toy, store: Store, intercept) -> None:
    manifest = toy.save(A, store, levels=["lossless"])

    key = manifest_key(manifest.context_id)

    def fail(asked: str) -> None:
        if asked == key:
            raise StoreError("it broke")

    found = list_contexts(intercept(store, before_get=fail))
    assert found.unreadable == ((key, "StoreError: it broke"),)
    assert [context.num_tokens for context in found.contexts] == [448]


def test_beginnings_are_seldom_read(toy) -> None:
    """Of a chain of manifests few are read before the one that tells of all others."""
    store = open_store("memory:")
    toy.save(list(range(64 * 100)), store, levels=["lossless"], chunk_tokens=64)
    reads = Counting(store)
    assert len(list_contexts(reads).contexts) == 1
    assert reads.count < 40


class Counting:
    """Counts what is read."""

    url = "counting:"

    def __init__(self, inner: Store) -> None:
        self.inner, self.count = inner, 0
        self.list = inner.list

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        self.count += 1
        return self.inner.get(key, range)
