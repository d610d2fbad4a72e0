"""What a server evicts of contexts: never a part of what is still found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cachegen.bitstream.manifest import Manifest, profile_key, read_manifest, tokens_key
from cachegen.loading.load import Reader
from cachegen.server.objects.bounded_store import BoundedStore
from cachegen.server.objects.index import Index
from cachegen.store import open_store, read


class Shelved:
    """A bounded_store as our server's client sees it."""

    url = "bounded_store:"

    def __init__(self, bounded_store: BoundedStore) -> None:
        self.bounded_store = bounded_store
        self.lookup, self.put, self.delete = (
            bounded_store.lookup,
            bounded_store.put,
            bounded_store.delete,
        )
        self.list = bounded_store.store.list

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        with self.bounded_store.reading(
            key, lambda size_bytes: range or (0, size_bytes)
        ) as reading:
            yield from reading.buffers


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator:
    index = Index(tmp_path / "index", namespaces=frozenset())

    def make(capacity_bytes: int) -> Shelved:
        store = open_store(tmp_path / "store")
        return Shelved(
            BoundedStore(store, index=index, capacity_bytes=capacity_bytes, segment_bytes=0)
        )

    yield make
    index.close()


def contexts() -> list[list[int]]:
    """Some share a beginning; ends lie at chunks' ends, at multiples of 64, and elsewhere."""
    lengths = (200, 256, 320, 150, 400, 130, 280, 256)
    return [
        [*range(128 if number % 2 else 0), *range(1000 * number, 1000 * number + length)]
        for number, length in enumerate(lengths, 1)
    ]


@pytest.mark.parametrize("capacity_bytes", [130_000, 200_000])
def test_what_is_found_is_whole(toy, make_store, capacity_bytes: int) -> None:
    """Each context fits by itself."""
    store = make_store(capacity_bytes)
    for number, tokens in enumerate(contexts(), 1):
        toy.save(tokens, store, profile=toy.profile, levels=["low", "high", "lossless"])
        assert toy.load(tokens, store, level="low").num_tokens == len(tokens)
        for earlier in contexts()[:number]:
            result = toy.load(earlier, store, level="low")
            assert {(c.level, c.reason) for c in result.chunks} <= {("low", "")}
            toy.check(result, earlier, exact=False)
    assert None in store.lookup([tokens_key(i) for i in all_ids(toy)]), "nothing was evicted"


def test_what_is_found_is_whole_by_kinds_of_layers(toy, make_store) -> None:
    """The windows near every end that is found are there, and the manifest goes before them."""
    store, windows = make_store(130_000), (0, 100)
    for number, tokens in enumerate(contexts(), 1):
        toy.save(tokens, store, windows=windows, levels=["medium", "lossless"])
        assert toy.load(tokens, store, level="medium").num_tokens == len(tokens)
        for earlier in contexts()[:number]:
            result = toy.load(earlier, store, level="medium", reader=Reader(complete=True))
            assert {c.reason for c in result.chunks} <= {""}
            assert {c.level for c in result.chunks} <= {"medium"}
            toy.check(result, earlier, exact=False)
    assert None in store.lookup([tokens_key(i) for i in all_ids(toy)]), "nothing was evicted"


def all_ids(toy) -> list[bytes]:
    memory = open_store("memory:")
    return [toy.save(tokens, memory, levels=["raw"]).context_id for tokens in contexts()]


def test_what_a_manifest_needs_outlives_it(toy, make_store) -> None:
    """Even where nobody has used anything but the manifests."""
    store = make_store(10**9)
    for tokens in contexts():
        toy.save(tokens, store, profile=toy.profile, levels=["low", "high", "lossless"])
    index, stored = store.bounded_store.index, set(store.list())
    needs = {key: needed(toy, read_manifest(read(store, key))) for key in store.list("contexts")}
    index.touch(needs)
    while needs.keys() & stored:
        for key in needs.keys() & stored:
            assert needs[key] <= stored
        (first,) = index.leaves(1)
        store.delete(first)
        stored.remove(first)


def needed(toy, manifest: Manifest) -> set[str]:
    """Keys without which the context cannot be loaded at level `low`."""
    last = manifest.chunks[-1]
    low = {stored.key for chunk in manifest.chunks for stored in chunk.objects[:1]}
    tokens = {tokens_key(last.chunk_id)} if last.stop > manifest.num_tokens else set()
    return {profile_key(toy.profile.hash), *low, *tokens}
