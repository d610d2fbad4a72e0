"""Profiles beside contexts: what a reader without one of its own gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.bitstream.manifest import manifest_key, profile_key
from cachegen.codec.profile import read_profile
from cachegen.codec.transform.importance import NUM_CLASSES, NUM_POSITION_TERMS, Importance
from cachegen.contexts.objects import read_at_most, read_stored_manifest
from cachegen.errors import BitstreamError
from cachegen.store import open_store, read
from tests.hostile import MIB, measured


@pytest.fixture
def weighted(toy, make_transform_profile):
    """A profile of version 2 with one level, `fine`."""
    made = make_transform_profile(toy.kv(range(300)), steps={"fine": 0.01})
    importance = Importance(
        np.zeros(NUM_POSITION_TERMS, dtype=np.float32),
        tuple(np.zeros(1, dtype=np.float32) for _ in made.transform.groups),
    )
    return replace(
        made,
        transform=replace(made.transform, importance=importance),
        num_active=tuple(own * NUM_CLASSES for own in made.num_active),
        table_ids=tuple(np.tile(ids, NUM_CLASSES) for ids in made.table_ids),
        default_level="fine",
    )


def test_readers_fetch_only_what_they_need(toy, weighted, tmp_path):
    tokens, store = range(300), open_store(str(tmp_path))
    toy.save(tokens, store, profile=weighted, levels=["fine"])
    stored = read(store, profile_key(weighted.hash))
    assert stored == weighted.reader_bytes
    assert len(stored) < len(weighted.file_bytes)
    alone, given = (
        toy.load(tokens, store, level="fine", profile=profile) for profile in (None, weighted)
    )
    assert all(map(torch.equal, alone.kv.planes(), given.kv.planes()))


def test_what_readers_fetch_cannot_save(toy, weighted, tmp_path):
    tokens, store = range(300), open_store(str(tmp_path))
    reader = read_profile(weighted.reader_bytes)
    with pytest.raises(ValueError, match="to encode, pass the file"):
        toy.save(tokens, store, profile=reader, levels=["fine"])
    assert not list(tmp_path.rglob("*.cgkv"))
    toy.save(tokens, store, profile=reader, levels=["lossless"])


@pytest.mark.parametrize("kind", ["chunks", "tokens", "profiles"])
def test_what_was_there_before_is_read_as_far_as_it_can_be_ours(toy, kind):
    """An endless object under a name that `save` wants is replaced, and costs little."""
    tokens, store = range(300), Endless(kind)
    store.inner.put("chunks/other", b"1")
    toy.save(tokens, store.inner, profile=toy.profile, levels=["high"])
    with measured() as cost:
        toy.save(tokens, store, profile=toy.profile, levels=["high"])
    assert store.sent_bytes < len(store.deleted) * 18 * MIB
    assert cost.num_bytes < 48 * MIB
    assert toy.load(tokens, store.inner, level="high").num_tokens == 300


class Endless:
    """A store whose objects of a kind never end, until they are replaced."""

    url = "endless:"

    def __init__(self, kind: str) -> None:
        self.inner, self.kind = open_store("memory:"), kind
        self.deleted, self.sent_bytes = set(), 0

    def get(self, key, range=None):
        if not key.startswith(self.kind) or key in self.deleted:
            return self.inner.get(key, range)
        return self._pour()

    def _pour(self):
        while True:
            self.sent_bytes += 1 << 16
            yield bytes(1 << 16)

    def delete(self, key):
        self.deleted.add(key)
        self.inner.delete(key)

    def put(self, key, data, *, parent=None):
        return self.inner.put(key, data, parent=parent)

    def lookup(self, keys):
        return self.inner.lookup(keys)


@pytest.mark.parametrize("piece", [b"a", b"ab", bytes(1000)])
def test_reading_takes_twice_what_is_read_in_whatever_pieces(piece):
    class Crumbs:
        def get(self, key, range=None):
            return iter(lambda: piece, None)

    limit = 2 * MIB
    with measured() as cost, pytest.raises(BitstreamError, match=f"k: expected at most {limit}"):
        read_at_most(Crumbs(), "k", limit)
    assert cost.num_bytes < 3 * limit


def test_a_context_of_more_chunks_than_a_load_can_plan(toy):
    store = open_store("memory:")
    whole = toy.save(range(640), store, levels=["high"], chunk_tokens=64)
    key, fingerprint = manifest_key(whole.context_id), whole.fingerprint
    assert read_stored_manifest(store, whole.context_id, fingerprint=fingerprint) == whole
    for name, most in (("MORE_CHUNKS", -1), ("MAX_CHUNKS", 9), ("MAX_OBJECTS", 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"cachegen.contexts.objects.{name}", most)
            with pytest.raises(BitstreamError, match=f"{key}: expected at most"):
                read_stored_manifest(store, whole.context_id, fingerprint=fingerprint)
