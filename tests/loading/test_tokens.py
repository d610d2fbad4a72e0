"""Levels that predict from the text: chunks meet their own tokens on the way in and out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.format import pack, unpack
from cachegen.bitstream.manifest import Manifest, manifest_key, tokens_key
from cachegen.codec.profile import Profile
from cachegen.store import Store, open_store, read

TOKENS = [(7 * place) % 40 for place in range(300)]
STEPS = {"low": 0.2, "medium": 0.1, "high": 0.05}


@pytest.fixture(scope="session")
def profile(toy, make_transform_profile: Callable[..., Profile]) -> Profile:
    return make_transform_profile(toy.kv(range(9)), steps=STEPS)


@pytest.fixture
def saved(toy, store: Store, profile: Profile) -> Manifest:
    return toy.save(TOKENS, store, profile=profile)


def levels_of(result) -> list[str | None]:
    return [chunk.level for chunk in result.chunks]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("level", [*STEPS, "lossless"])
def test_every_level_is_loaded(toy, store, profile, saved, level: str, given: bool) -> None:
    result = toy.load(TOKENS, store, level=level, profile=profile if given else None)
    assert levels_of(result) == [level] * 3
    assert not any(chunk.reason for chunk in result.chunks)
    assert result.num_tokens == 300
    toy.check(result, TOKENS, exact=level == "lossless")


def test_a_level_depends_on_its_profile(saved: Manifest, profile: Profile) -> None:
    for stored in saved.chunks[0].objects:
        expected = bytes(32) if stored.level == "lossless" else profile.hash
        assert stored.profile_hash == expected


def test_a_continuation_is_coded_with_its_own_tokens(toy, store, profile) -> None:
    toy.save(TOKENS[:128], store, profile=profile)
    toy.save(TOKENS, store, profile=profile, kv=toy.kv(TOKENS).slice(128, 300))
    result = toy.load(TOKENS, store)
    assert levels_of(result) == ["medium"] * 3
    toy.check(result, TOKENS, exact=False)


@pytest.fixture
def tail(toy, store: Store, profile: Profile) -> list[int]:
    """A context of 200 tokens is stored; this one leaves it after 192, inside the last chunk."""
    toy.save(TOKENS[:200], store, profile=profile, levels=["high", "lossless"])
    return [*TOKENS[:192], 1, 1, 1]


def test_a_partial_chunk_is_decoded_with_tokens_from_the_store(toy, store, tail) -> None:
    whole = toy.load(TOKENS[:200], store, level="high").kv.slice(0, 192)
    part = toy.load(tail, store, level="high")
    assert levels_of(part) == ["high", "high"]
    assert not any(chunk.reason for chunk in part.chunks)
    assert part.num_tokens == 192
    for a, b in zip(part.kv.planes(), whole.planes(), strict=True):
        assert torch.equal(a, b)


def test_a_partial_chunk_without_prediction_needs_no_stored_tokens(toy, intercept) -> None:
    memory, asked = open_store("memory:"), []
    toy.save(TOKENS[:200], memory, profile=toy.profile)
    toy.load(TOKENS[:192], intercept(memory, before_get=asked.append), level="high")
    assert not any(key.startswith("tokens/") for key in asked)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(4)),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\7\0\0\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_partial_chunk_whose_tokens_are_damaged(toy, store, tail, tmp_path, damage) -> None:
    (path,) = (Path(tmp_path) / "store" / "tokens").iterdir()
    DAMAGES[damage](path)
    result = toy.load(tail, store, level="high")
    assert levels_of(result) == ["high", "lossless"]
    assert result.chunks[1].reason.startswith("high: ")
    assert ("TokensMismatch" in result.chunks[1].reason) == (damage == "changed")
    toy.check(result, tail, exact=False)


def forge(store: Store, manifest: Manifest, data: bytes, *, level: str) -> None:
    """Other bytes for the second chunk at a level; the manifest agrees with them."""
    chunk = manifest.chunks[1]
    old = next(stored for stored in chunk.objects if stored.level == level)
    new = replace(old, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
    others = tuple(new if stored is old else stored for stored in chunk.objects)
    first, _, last = manifest.chunks
    forged = replace(manifest, chunks=(first, replace(chunk, objects=others), last))
    key = manifest_key(manifest.context_id)
    for name, content in ((old.key, data), (key, forged.to_bytes())):
        store.delete(name)
        store.put(name, content)


def foreign_bytes(toy, manifest: Manifest, profile: Profile, *, level: str) -> bytes:
    """The second chunk, coded for other tokens."""
    return encode(
        toy.kv(TOKENS).slice(128, 256),
        tokens=[0] * 128,
        profile=profile,
        level=level,
        fingerprint=toy.fingerprint,
        chunk_id=manifest.chunks[1].chunk_id,
    )


def test_a_chunk_for_other_tokens_is_damaged(toy, store, profile, saved) -> None:
    forge(store, saved, foreign_bytes(toy, saved, profile, level="high"), level="high")
    result = toy.load(TOKENS, store, level="high", recompute=toy.recompute(TOKENS))
    assert levels_of(result) == ["high", "lossless", "high"]
    assert "high: TokensMismatch" in result.chunks[1].reason
    toy.check(result, TOKENS, exact=False)


def test_a_chunk_for_other_tokens_is_recomputed_where_there_is_no_other(
    toy, store, profile
) -> None:
    manifest = toy.save(TOKENS, store, profile=profile, levels=["high"])
    forge(store, manifest, foreign_bytes(toy, manifest, profile, level="high"), level="high")
    assert toy.load(TOKENS, store, level="high").num_tokens == 128
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, store, level="high", recompute=recompute)
    assert levels_of(result) == ["high", "text", "high"]
    assert recompute.ranges == [(128, 256)]


def test_a_chunk_for_other_tokens_is_not_adopted(toy, profile) -> None:
    store = open_store("memory:")
    ours = toy.save(TOKENS, open_store("memory:"), profile=profile, levels=["high"])
    key = ours.chunks[1].objects[0].key
    store.put(key, foreign_bytes(toy, ours, profile, level="high"))
    assert toy.save(TOKENS, store, profile=profile, levels=["high"]) == ours
    assert hashlib.sha256(read(store, key)).digest() == ours.chunks[1].objects[0].sha256


def test_a_forged_codec_cannot_stop_a_load(toy, store, profile, saved) -> None:
    chunk = unpack(foreign_bytes(toy, saved, profile, level="high"))
    data = pack(replace(chunk, level="lossless", profile_hash=bytes(32)))
    forge(store, saved, data, level="lossless")
    result = toy.load(TOKENS, store, level="lossless")
    assert levels_of(result) == ["lossless", "high", "lossless"]
    assert "lossless: BitstreamError" in result.chunks[1].reason


def test_the_whole_text_is_a_companion(store, saved: Manifest) -> None:
    assert len(read(store, tokens_key(saved.context_id))) == 4 * 300


def test_a_cache_of_windows_gives_way_to_a_chunk_of_its_own(toy, store, profile) -> None:
    kv = toy.window(TOKENS, held=50)
    toy.save(TOKENS, store, kv=kv, profile=profile, levels=["high"])
    result = toy.load(TOKENS, store, level="high")
    assert levels_of(result) == ["high"]
    assert not result.chunks[0].reason
    for found, true in zip(result.kv.planes(), kv.planes(), strict=True):
        assert found.shape == true.shape
        assert (found.float() - true.float()).abs().max() < 0.2
