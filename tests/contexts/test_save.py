from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.identity import tokens_to_bytes
from cachegen.bitstream.manifest import manifest_key, profile_key, read_manifest, tokens_key
from cachegen.codec.rope import Rope, RopeMap
from cachegen.errors import ProfileMismatch, StoreError
from cachegen.kvcache import KVCache
from cachegen.store import open_store, read

LENGTHS = [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 256, 300, 384, 400]


def boundaries(num_tokens: int, chunk_tokens: int = 128) -> set[int]:
    """Lengths of the prefixes that a saved context is found by."""
    ends = set(range(chunk_tokens, num_tokens, chunk_tokens))
    return ends | {num_tokens - num_tokens % 64, num_tokens} - {0}


def all_objects(manifest):
    return [stored for chunk in manifest.chunks for stored in chunk.objects]


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_what_is_saved_is_loaded(toy, num_tokens: int) -> None:
    store, tokens = open_store("memory:"), list(range(num_tokens))
    manifest = toy.save(tokens, store, levels=["raw", "lossless", "high"])
    assert (manifest.num_tokens, manifest.chunks[-1].stop) == (num_tokens, num_tokens)
    for level in ("raw", "lossless", "high"):
        result = toy.load(tokens, store, level=level)
        assert (result.num_tokens, result.exact) == (num_tokens, level != "high")
        toy.check(result, tokens, exact=level != "high")
        assert {chunk.level for chunk in result.chunks} == {level}


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_a_context_is_found_by_its_boundaries(toy, num_tokens: int) -> None:
    store, tokens = open_store("memory:"), list(range(num_tokens))
    manifest = toy.save(tokens, store, levels=["raw"])
    found = [read_manifest(read(store, key)) for key in store.list("contexts")]
    assert {part.num_tokens for part in found} == boundaries(num_tokens)
    assert manifest in found


@settings(deadline=None, max_examples=40)
@given(
    saved=st.integers(1, 400),
    shared=st.integers(0, 400),
    more=st.integers(0, 200),
    chunk_tokens=st.sampled_from([64, 128, 192]),
)
def test_the_longest_common_boundary_is_loaded(toy, saved, shared, more, chunk_tokens) -> None:
    store, shared = open_store("memory:"), min(saved, shared)
    toy.save(list(range(saved)), store, levels=["raw"], chunk_tokens=chunk_tokens)
    tokens = [*range(shared), *range(5000, 5000 + more)]
    if not tokens:
        return
    usable = [
        length
        for length in boundaries(saved, chunk_tokens)
        if length <= shared and (length % 64 == 0 or length == len(tokens))
    ]
    result = toy.load(tokens, store)
    assert result.num_tokens == max(usable, default=0)
    toy.check(result, tokens, exact=True)


def test_a_common_prefix_is_stored_once(toy) -> None:
    store = open_store("memory:")
    toy.save([*range(256), *range(700, 750)], store)
    before = set(store.list("chunks"))
    digests = {key: hashlib.sha256(read(store, key)).digest() for key in before}
    second = toy.save([*range(256), *range(800, 900)], store)
    new = set(store.list("chunks")) - before
    assert len(new) == 2
    assert all("/256-356/" in key for key in new)
    assert {key: hashlib.sha256(read(store, key)).digest() for key in before} == digests
    assert {stored.key for stored in all_objects(second)} >= new


def test_saving_twice_changes_nothing(toy, intercept) -> None:
    memory, tokens = open_store("memory:"), list(range(300))
    first = toy.save(tokens, memory, profile=toy.profile)
    content = {key: read(memory, key) for key in memory.list()}
    put = []
    again = toy.save(tokens, intercept(memory, before_put=put.append), profile=toy.profile)
    assert again == first
    assert not any(key.startswith("chunks/") for key in put), "a stored chunk was coded again"
    assert {key: read(memory, key) for key in memory.list()} == content


def test_companions_are_stored(toy) -> None:
    store, tokens = open_store("memory:"), list(range(150))
    manifest = toy.save(tokens, store, profile=toy.profile)
    assert read(store, tokens_key(manifest.context_id)) == tokens_to_bytes(tokens)
    assert read(store, profile_key(toy.profile.hash)) == toy.profile.file_bytes


def test_default_levels(toy) -> None:
    def levels(**options) -> list[str]:
        manifest = toy.save(list(range(64)), open_store("memory:"), **options)
        return [stored.level for stored in all_objects(manifest)]

    ladder = ["low", "medium", "high", "highest"]
    assert levels() == ["high", "lossless"]
    assert levels(profile=toy.profile) == [*ladder, "lossless"]
    assert levels(exact=False) == ["high"]
    assert levels(profile=toy.profile, exact=False) == ladder


def test_the_profile_is_part_of_the_key_where_bytes_depend_on_it(toy) -> None:
    manifest = toy.save(list(range(64)), open_store("memory:"), profile=toy.profile)
    for stored in all_objects(manifest):
        expected = bytes(32) if stored.level == "lossless" else toy.profile.hash
        assert stored.profile_hash == expected


def test_progress_counts_objects(toy) -> None:
    told = []
    toy.save(
        list(range(200)),
        open_store("memory:"),
        levels=["raw", "packed"],
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_children_name_their_parents(toy) -> None:
    parents = {}

    class Recording:
        def __init__(self) -> None:
            self.store = open_store("memory:")

        def __getattr__(self, name):
            return getattr(self.store, name)

        def put(self, key, data, *, parent=None) -> bool:
            parents[key] = parent
            return self.store.put(key, data, parent=parent)

    manifest = toy.save(list(range(300)), Recording(), levels=["raw", "packed"])
    for level in ("raw", "packed"):
        keys = [o.key for chunk in manifest.chunks for o in chunk.objects if o.level == level]
        assert [parents[key] for key in keys] == [None, *keys[:-1]]


def test_a_second_level_joins_the_first(toy) -> None:
    store, tokens = open_store("memory:"), list(range(300))
    toy.save(tokens, store, levels=["raw"])
    merged = toy.save(tokens, store, levels=["packed"])
    assert {stored.level for stored in all_objects(merged)} == {"raw", "packed"}
    for num_tokens in boundaries(300):
        for level in ("raw", "packed"):
            result = toy.load(tokens[:num_tokens], store, level=level)
            assert {chunk.level for chunk in result.chunks} == {level}
            assert result.num_tokens == num_tokens


def test_a_new_profile_replaces_the_old_one_s_levels(toy) -> None:
    store, tokens, new = open_store("memory:"), list(range(200)), toy.make_profile(0.3)
    toy.save(tokens, store, profile=toy.profile)
    toy.save(tokens, store, profile=new, levels=["medium"])
    result = toy.load(tokens, store, profile=new)
    assert [chunk.reason for chunk in result.chunks] == ["", ""]
    old = toy.load(tokens, store, profile=new, level="low")
    assert {chunk.level for chunk in old.chunks} == {"low"}
    toy.check(result, tokens, exact=False)


def test_other_chunk_lengths_replace_the_manifest(toy) -> None:
    store, tokens = open_store("memory:"), list(range(400))
    toy.save(tokens, store, levels=["raw"], chunk_tokens=128)
    manifest = toy.save(tokens, store, levels=["raw"], chunk_tokens=192)
    assert [chunk.stop for chunk in manifest.chunks] == [192, 384, 400]
    for num_tokens in boundaries(400, 128) | boundaries(400, 192):
        result = toy.load(tokens[:num_tokens], store)
        assert result.num_tokens == num_tokens
        toy.check(result, tokens, exact=True)


def other_bytes(toy, tokens, entry, level: str) -> bytes:
    """A chunk that another writer might have made: rotated keys known, so coded differently."""
    planes = 2 * toy.kv(tokens).num_layers
    return encode(
        toy.kv(tokens).slice(entry.start, entry.stop),
        level=level,
        rope=RopeMap((Rope((1.0, 0.5, 0.25, 0.125)),), (0, None) * (planes // 2)),
        fingerprint=toy.fingerprint,
        chunk_id=entry.chunk_id,
    )


@pytest.mark.parametrize("moment", ["before the lookup", "after it"])
def test_the_winner_s_digest_is_recorded(toy, intercept, moment: str) -> None:
    tokens, memory = list(range(200)), open_store("memory:")
    ours = toy.save(tokens, open_store("memory:"), levels=["high"])
    theirs = {
        entry.objects[0].key: other_bytes(toy, tokens, entry, "high") for entry in ours.chunks
    }

    def be_first(key: str) -> None:
        if key in theirs:
            memory.put(key, theirs[key])

    if moment == "before the lookup":
        for key in theirs:
            be_first(key)
    manifest = toy.save(tokens, intercept(memory, before_put=be_first), levels=["high"])
    for stored in all_objects(manifest):
        assert read(memory, stored.key) == theirs[stored.key]
        assert stored.sha256 == hashlib.sha256(theirs[stored.key]).digest()
        assert stored.size_bytes == len(theirs[stored.key])
    assert manifest != ours
    result = toy.load(tokens, memory)
    assert result.num_tokens == 200
    toy.check(result, tokens, exact=False)


@pytest.mark.parametrize("moment", ["before the lookup", "after it"])
@pytest.mark.parametrize("bad", [b"", b"garbage", "another chunk"])
def test_a_damaged_object_is_replaced(toy, intercept, bad, moment: str) -> None:
    tokens, memory = list(range(200)), open_store("memory:")
    ours = toy.save(tokens, open_store("memory:"), levels=["high"])
    first, second = ours.chunks
    if bad == "another chunk":
        bad = other_bytes(toy, tokens, second, "high")
    key = first.objects[0].key

    def spoil(written: str) -> None:
        if written == key and memory.lookup([key]) == [None]:
            memory.put(key, bad)

    attempts = []

    def spoil_once(written: str) -> None:
        if written == key and not attempts:
            attempts.append(written)
            spoil(written)

    if moment == "before the lookup":
        spoil_once(key)
    assert toy.save(tokens, intercept(memory, before_put=spoil_once), levels=["high"]) == ours
    toy.check(toy.load(tokens, memory), tokens, exact=False)
    memory.delete(key)
    with pytest.raises(StoreError, match="damaged"):
        toy.save(tokens, intercept(memory, before_put=spoil), levels=["high"])


def test_damaged_companions_and_manifests_are_replaced(toy) -> None:
    store, tokens = open_store("memory:"), list(range(200))
    manifest = toy.save(tokens, store, profile=toy.profile)
    keys = [
        tokens_key(manifest.context_id),
        profile_key(toy.profile.hash),
        manifest_key(manifest.context_id),
    ]
    content = {key: read(store, key) for key in keys}
    for key in keys:
        store.delete(key)
        store.put(key, b"damaged")
    assert toy.save(tokens, store, profile=toy.profile) == manifest
    assert {key: read(store, key) for key in keys} == content


def test_a_save_that_fails_anywhere_leaves_whole_contexts(toy, intercept) -> None:
    tokens, puts = list(range(200)), 0
    while True:
        memory, left = open_store("memory:"), [puts]

        def fail_after(key: str, left=left) -> None:
            if not left[0]:
                raise StoreError("full")
            left[0] -= 1

        store = intercept(memory, before_put=fail_after)
        try:
            toy.save(tokens, store, profile=toy.profile, levels=["medium", "raw"])
            break
        except StoreError:
            pass
        for key in memory.list("contexts"):
            named = all_objects(read_manifest(read(memory, key)))
            assert None not in memory.lookup([stored.key for stored in named])
        result = toy.load(tokens, memory)
        assert not any(chunk.reason for chunk in result.chunks)
        toy.check(result, tokens, exact=False)
        puts += 1
    assert puts == 9


def test_mistakes_are_refused(toy) -> None:
    store, tokens = open_store("memory:"), list(range(100))
    for options, expected in (
        ({"kv": toy.kv(range(99))}, "expected the 99 tokens"),
        ({"chunk_tokens": 0}, "multiple of 64"),
        ({"chunk_tokens": 100}, "multiple of 64"),
        ({"levels": []}, "at least one level"),
        ({"levels": ["sharp"]}, "expected one of the levels"),
        ({"levels": ["text"]}, "expected one of the levels"),
        ({"levels": ["raw"], "exact": False}, "not exact"),
        ({"fingerprint": b"short"}, "32 bytes"),
    ):
        with pytest.raises(ValueError, match=expected):
            toy.save(tokens, store, **options)
    with pytest.raises(ValueError, match="at least one token"):
        toy.save([], store, kv=KVCache((torch.zeros(1, 0, 4),), (torch.zeros(1, 0, 4),), 0))
    with pytest.raises(ProfileMismatch):
        small = KVCache((torch.zeros(1, 9, 4),), (torch.zeros(1, 9, 4),), 9)
        toy.save(list(range(9)), store, kv=small, profile=toy.profile)
    assert not list(store.list("contexts"))


def test_a_chunk_too_large_to_be_loaded_is_refused(toy) -> None:
    plane = torch.zeros(1).expand(1, 2**16, 2**14)
    kv = KVCache((plane,), (plane,), 2**16)
    with pytest.raises(ValueError, match="smaller chunk_tokens"):
        toy.save(list(range(2**16)), open_store("memory:"), kv=kv, chunk_tokens=2**15)


def test_a_level_that_the_profile_left_out_is_the_next_coarser_one(toy, store):
    """In manifest, key and chunk alike, and for who asks for it."""
    whole = toy.profile
    profile = replace(whole, levels=whole.levels[:3], table_ids=whole.table_ids[:3])
    tokens = range(200)
    manifest = toy.save(tokens, store, profile=profile, levels=["highest", "high"])
    assert {stored.level for chunk in manifest.chunks for stored in chunk.objects} == {"high"}
    for level in ("highest", "high"):
        result = toy.load(tokens, store, profile=profile, level=level)
        assert [chunk.level for chunk in result.chunks] == ["high", "high"]
        toy.check(result, tokens, exact=False)
