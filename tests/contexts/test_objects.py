"""Profiles beside contexts: what a reader without one of its own gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.bitstream.manifest import profile_key
from cachegen.codec.profile import read_profile
from cachegen.codec.transform.importance import NUM_CLASSES, NUM_POSITION_TERMS, Importance
from cachegen.store import open_store, read


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
