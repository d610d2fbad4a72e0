"""Objects that are missing, damaged or swapped cost what they held, and never give wrong KV."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cachegen.bitstream.chunk import encode
from cachegen.bitstream.manifest import ChunkEntry, Manifest, manifest_key, object_key, profile_key
from cachegen.errors import StoreError
from cachegen.store import Store, read

TOKENS = list(range(300))
Damage = Callable[[Path, Path], None]


def flip(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Damage] = {
    "missing": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
    "flipped at the start": lambda path, other: flip(path, 0.0),
    "flipped in the middle": lambda path, other: flip(path, 0.5),
    "flipped at the end": lambda path, other: flip(path, 1.0),
    "another object": lambda path, other: path.write_bytes(other.read_bytes()),
}


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Damage:
    return DAMAGES[request.param]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def paths_of(folder: Path, manifest: Manifest, level: str) -> list[Path]:
    found = [o.key for chunk in manifest.chunks for o in chunk.objects if o.level == level]
    return [folder / key for key in found]


def test_another_level_stands_in(toy, store: Store, folder: Path, damage: Damage) -> None:
    manifest = toy.save(TOKENS, store, levels=["low", "high", "lossless"])
    paths = paths_of(folder, manifest, "high")
    damage(paths[1], paths[0])
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, store, level="high", recompute=recompute)
    assert [chunk.level for chunk in result.chunks] == ["high", "lossless", "high"]
    assert result.chunks[1].reason.startswith("high: ")
    assert recompute.ranges == []
    toy.check(result, TOKENS, exact=False)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_chunk_is_recomputed(toy, store, folder, damage: Damage, index: int) -> None:
    manifest = toy.save(TOKENS, store, levels=["raw"])
    paths = paths_of(folder, manifest, "raw")
    damage(paths[index], paths[index - 1])
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, store, recompute=recompute)
    ranges = [(0, 128), (128, 256), (256, 300)]
    assert recompute.ranges == [ranges[index]]
    assert [(chunk.start, chunk.stop) for chunk in result.chunks] == ranges
    assert [chunk.level == "text" for chunk in result.chunks] == [n == index for n in range(3)]
    assert "raw: " in result.chunks[index].reason
    assert (result.num_tokens, result.exact) == (300, True)
    assert result.recompute_s > 0
    toy.check(result, TOKENS, exact=True)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_without_a_way_out_the_result_ends_there(toy, store, folder, damage, index: int) -> None:
    manifest = toy.save(TOKENS, store, levels=["raw"])
    paths = paths_of(folder, manifest, "raw")
    damage(paths[index], paths[index - 1])
    result = toy.load(TOKENS, store)
    assert result.num_tokens == index * 128
    assert [chunk.level for chunk in result.chunks] == ["raw"] * index + [None]
    assert (result.chunks[-1].start, result.chunks[-1].stop) == (index * 128, 300)
    assert "raw: " in result.chunks[-1].reason
    toy.check(result, TOKENS, exact=True)


def test_all_levels_damaged(toy, store, folder, damage: Damage) -> None:
    manifest = toy.save(TOKENS, store, profile=toy.profile, levels=["low", "high", "lossless"])
    for level in ("low", "high", "lossless"):
        paths = paths_of(folder, manifest, level)
        damage(paths[1], paths[2])
    cut = toy.load(TOKENS, store, level="high")
    assert cut.num_tokens == 128
    assert [part in cut.chunks[-1].reason for part in ("low: ", "high: ", "lossless: ")] == [
        True
    ] * 3
    whole = toy.load(TOKENS, store, level="high", recompute=toy.recompute(TOKENS))
    assert [chunk.level for chunk in whole.chunks] == ["high", "text", "high"]
    toy.check(whole, TOKENS, exact=False)


def test_a_damaged_manifest_costs_what_is_behind_it(toy, store, folder, damage: Damage) -> None:
    manifest = toy.save(TOKENS, store)
    other = next(p for p in (folder / "contexts").iterdir() if p.name != manifest.context_id.hex())
    damage(folder / manifest_key(manifest.context_id), other)
    result = toy.load(TOKENS, store, level="lossless")
    assert result.num_tokens == 256
    if damage is not DAMAGES["missing"]:
        assert [(c.start, c.stop, c.level) for c in result.chunks[-1:]] == [(256, 300, None)]
        assert "BitstreamError" in result.chunks[-1].reason
    toy.check(result, TOKENS, exact=True)


def test_all_manifests_damaged(toy, store, folder, damage: Damage) -> None:
    toy.save(TOKENS, store)
    toy.save(list(range(1000, 1100)), store)
    paths = sorted((folder / "contexts").iterdir())
    others = [path.read_bytes() for path in (*paths[1:], paths[0])]
    spare = folder / "spare"
    for path, data in zip(paths, others, strict=True):
        spare.write_bytes(data)
        damage(path, spare)
    result = toy.load(TOKENS, store)
    assert (result.kv, result.num_tokens) == (None, 0)


@pytest.mark.parametrize("given", [True, False])
def test_a_damaged_profile(toy, store, folder, damage: Damage, given: bool) -> None:
    toy.save(TOKENS, store, profile=toy.profile, levels=["high", "lossless"])
    other = folder / "other"
    other.write_bytes(toy.make_profile(0.1).file_bytes)
    damage(folder / profile_key(toy.profile.hash), other)
    result = toy.load(TOKENS, store, level="high", profile=toy.profile if given else None)
    assert {chunk.level for chunk in result.chunks} == {"high" if given else "lossless"}
    assert all(("profiles/" in chunk.reason) != given for chunk in result.chunks)
    toy.check(result, TOKENS, exact=not given)


def forge(store: Store, manifest: Manifest, index: int, data: bytes) -> None:
    """Put other bytes under a chunk's key, and make the manifest agree with them."""
    chunk = manifest.chunks[index]
    old = chunk.objects[0]
    new = replace(old, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
    chunks = list(manifest.chunks)
    chunks[index] = replace(chunk, objects=(new,))
    for key, content in (
        (old.key, data),
        (
            manifest_key(manifest.context_id),
            replace(manifest, chunks=tuple(chunks)).to_bytes(),
        ),
    ):
        store.delete(key)
        store.put(key, content)


@pytest.mark.parametrize(
    "wrong", ["other chunk", "start", "num_tokens", "level", "model", "geometry", "window"]
)
def test_a_chunk_that_is_not_the_manifest_s_is_not_used(toy, store, wrong: str) -> None:
    manifest = toy.save(TOKENS, store, levels=["raw"])
    entry, kv = manifest.chunks[1], toy.kv(TOKENS).slice(128, 256)
    options = {"level": "raw", "fingerprint": toy.fingerprint, "chunk_id": entry.chunk_id}
    if wrong == "start":
        kv = replace(kv, start=127)
    if wrong == "num_tokens":
        kv = kv.slice(0, 127)
    if wrong == "level":
        options["level"] = "packed"
    if wrong == "model":
        options["fingerprint"] = bytes(32)
    if wrong == "geometry":
        kv = replace(kv, keys=kv.keys[:1], values=kv.values[:1])
    if wrong == "window":
        kv = replace(
            kv, keys=(kv.keys[0], kv.keys[1][:, 1:]), values=(kv.values[0], kv.values[1][:, 1:])
        )
    data = encode(kv, **options)
    if wrong == "other chunk":
        data = read(store, manifest.chunks[2].objects[0].key)
    forge(store, manifest, 1, data)
    result = toy.load(TOKENS, store)
    assert result.num_tokens == 128
    expected = {"other chunk": "chunk_id", "model": "ProfileMismatch", "window": "every layer"}
    assert expected.get(wrong, wrong) in result.chunks[-1].reason
    whole = toy.load(TOKENS, store, recompute=toy.recompute(TOKENS))
    toy.check(whole, TOKENS, exact=True)
    assert whole.num_tokens == 300


def test_a_forgery_that_is_right_is_used(toy, store) -> None:
    """So that the refusals above are not refusals of `forge`."""
    manifest = toy.save(TOKENS, store, levels=["raw"])
    kv = toy.kv(TOKENS).slice(128, 256)
    ids = {"fingerprint": toy.fingerprint, "chunk_id": manifest.chunks[1].chunk_id}
    forge(store, manifest, 1, encode(kv, level="raw", **ids))
    assert toy.load(TOKENS, store).num_tokens == 300


def test_a_sound_chunk_of_another_digest_is_not_used(toy, store: Store) -> None:
    manifest = toy.save(TOKENS, store, levels=["raw"])
    entry = manifest.chunks[1]
    data = encode(
        replace(toy.kv(list(range(9, 137))), start=128),
        level="raw",
        fingerprint=toy.fingerprint,
        chunk_id=entry.chunk_id,
    )
    assert len(data) == entry.objects[0].size_bytes
    store.delete(entry.objects[0].key)
    store.put(entry.objects[0].key, data)
    result = toy.load(TOKENS, store)
    assert result.num_tokens == 128
    assert "SHA-256" in result.chunks[-1].reason


@pytest.mark.parametrize("lie", ["exact", "num_tokens"])
def test_a_manifest_that_is_not_the_context_s_is_not_used(toy, store: Store, lie: str) -> None:
    manifest = toy.save(TOKENS, store, levels=["high"])
    forged = replace(manifest, exact=False)
    if lie == "num_tokens":
        chunk_id, stored = manifest.context_id, manifest.chunks[0].objects[0]
        key = object_key(chunk_id, start=0, stop=128, level="high")
        chunk = ChunkEntry(chunk_id, 0, 128, (replace(stored, key=key),))
        forged = replace(manifest, num_tokens=128, chunks=(chunk,))
    store.delete(manifest_key(manifest.context_id))
    store.put(manifest_key(manifest.context_id), forged.to_bytes())
    result = toy.load(TOKENS, store)
    assert result.num_tokens == 256
    assert "expected 300 tokens, exact True" in result.chunks[-1].reason


def test_a_damaged_manifest_costs_only_time_where_there_is_a_model(toy, store, folder) -> None:
    manifest = toy.save(TOKENS, store)
    flip(folder / manifest_key(manifest.context_id), 0.5)
    recompute = toy.recompute(TOKENS)
    result = toy.load(TOKENS, store, level="lossless", recompute=recompute)
    assert recompute.ranges == [(256, 300)]
    assert [chunk.level for chunk in result.chunks] == ["lossless", "lossless", "text"]
    assert "BitstreamError" in result.chunks[-1].reason
    toy.check(result, TOKENS, exact=True)


def test_a_manifest_that_fails_once_is_asked_for_again(toy, store, intercept) -> None:
    manifest, failures = toy.save(TOKENS, store), [StoreError("busy")]

    def fail(key: str) -> None:
        if key == manifest_key(manifest.context_id) and failures:
            raise failures.pop()

    result = toy.load(TOKENS, intercept(store, before_get=fail), level="lossless")
    assert result.num_tokens == 300 and not failures
    toy.check(result, TOKENS, exact=True)
