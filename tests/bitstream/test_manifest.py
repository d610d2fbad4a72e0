"""Manifests come back as they were, and only sound ones do."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.manifest import (
    MAX_SIZE_BYTES,
    ChunkEntry,
    Manifest,
    StoredObject,
    manifest_key,
    object_key,
    profile_key,
    read_manifest,
    tokens_key,
)
from cachegen.errors import BitstreamError

PROFILE = bytes([7] * 32)
NONE = bytes(32)


def make_object(chunk_id: bytes, start: int, stop: int, level: str) -> StoredObject:
    profile = NONE if level in ("lossless", "raw", "packed") else PROFILE
    key = object_key(chunk_id, start=start, stop=stop, profile_hash=profile, level=level)
    return StoredObject(level, key, 1000, bytes([2] * 32), profile)


def make_manifest(*stops: int, num_tokens: int | None = None, levels=("low", "high")) -> Manifest:
    chunks = []
    for index, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
        chunk_id = bytes([(index + 1) % 256] * 32)
        objects = tuple(make_object(chunk_id, start, stop, level) for level in levels)
        chunks.append(ChunkEntry(chunk_id, start, stop, objects))
    complete = num_tokens in (None, stops[-1])
    context = chunks[-1].chunk_id if complete else bytes([99] * 32)
    return Manifest(context, bytes([1] * 32), num_tokens or stops[-1], True, tuple(chunks))


MANIFEST = make_manifest(128, 256, 300, levels=("low", "lossless"))


def as_json(manifest: Manifest = MANIFEST):
    return json.loads(manifest.to_bytes())


def to_bytes(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        MANIFEST,
        make_manifest(1),
        make_manifest(64),
        make_manifest(128, 300, num_tokens=256),
        make_manifest(100, 300, 1000, levels=("raw",)),
        replace(make_manifest(64, levels=("low", "packed")), exact=False),
        replace(make_manifest(64), fingerprint=NONE),
        make_manifest(*range(1536, 200_000, 1536)),
    ],
)
def test_round_trip(manifest):
    data = manifest.to_bytes()
    assert read_manifest(data) == manifest
    assert read_manifest(memoryview(bytearray(data))) == manifest
    assert data == to_bytes(json.loads(data))


def test_equal_manifests_have_equal_bytes():
    assert make_manifest(64, 128).to_bytes() == make_manifest(64, 128).to_bytes()


def test_keys():
    digest = bytes([0xAB] * 32)
    assert object_key(digest, start=64, stop=128, profile_hash=PROFILE, level="low") == (
        f"chunks/{'ab' * 32}/64-128/{'07' * 32}/v1/low"
    )
    assert object_key(digest, start=0, stop=64, level="raw").split("/")[3] == "none"
    assert manifest_key(digest) == f"contexts/{'ab' * 32}"
    assert tokens_key(digest) == f"tokens/{'ab' * 32}"
    assert profile_key(digest) == f"profiles/{'ab' * 32}"


def change(document, path, value):
    """The document with the value at a path replaced, or removed where it is `...`."""
    *parents, last = path
    place = document
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


CHUNK, OBJECT = ("chunks", 1), ("chunks", 1, "objects", 0)
BAD_VALUES = [
    (("version",), 0, "manifest.version: .*save the context again"),
    (("version",), 3, "manifest.version: .*newer cachegen"),
    (("version",), -1, "manifest.version"),
    (("version",), "1", "manifest.version"),
    (("version",), True, "manifest.version"),
    (("version",), ..., "manifest: expected the keys"),
    (("extra",), 1, "manifest: expected the keys"),
    (("exact",), 1, "manifest.exact"),
    (("exact",), None, "manifest.exact"),
    (("context_id",), "AB" * 32, "manifest.context_id"),
    (("context_id",), "ab" * 31, "manifest.context_id"),
    (("context_id",), "ab" * 32 + "\n", "manifest.context_id"),
    (("context_id",), 5, "manifest.context_id"),
    (("context_id",), "ab" * 32, "manifest.context_id: expected the last chunk's id"),
    (("fingerprint",), [], "manifest.fingerprint"),
    (("num_tokens",), 0, "manifest.num_tokens"),
    (("num_tokens",), -1, "manifest.num_tokens"),
    (("num_tokens",), True, "manifest.num_tokens"),
    (("num_tokens",), 10**400, "manifest.num_tokens"),
    (("num_tokens",), 256, "manifest.num_tokens: expected 257 to 300"),
    (("num_tokens",), 301, "manifest.num_tokens: expected 257 to 300"),
    (("num_tokens",), 299, "manifest.num_tokens: expected 300, or 256 in it"),
    (("chunks",), [], "manifest.chunks"),
    (("chunks",), {}, "manifest.chunks"),
    (("chunks",), None, "manifest.chunks"),
    (CHUNK, None, r"manifest.chunks\[1\]"),
    ((*CHUNK, "start"), 127, r"manifest.chunks\[1\]"),
    ((*CHUNK, "stop"), 128, r"manifest.chunks\[1\].stop"),
    ((*CHUNK, "stop"), 2**48 + 1, r"manifest.chunks\[1\].stop"),
    ((*CHUNK, "more"), 0, r"manifest.chunks\[1\]: expected the keys"),
    ((*CHUNK, "objects"), [], r"manifest.chunks\[1\].objects"),
    ((*OBJECT, "level"), "Low", r"manifest.chunks\[1\].objects\[0\].level"),
    ((*OBJECT, "level"), "high", r"manifest.chunks\[1\].objects: expected the key"),
    ((*OBJECT, "level"), "lossless", r"manifest.chunks\[1\].objects: a level occurs twice"),
    ((*OBJECT, "key"), "../../etc/passwd", r"manifest.chunks\[1\].objects: expected the key"),
    ((*OBJECT, "key"), "", r"manifest.chunks\[1\].objects\[0\].key"),
    ((*OBJECT, "key"), "contexts/" + "0" * 64, r"objects: expected the key"),
    ((*OBJECT, "size_bytes"), 0, r"objects\[0\].size_bytes"),
    ((*OBJECT, "size_bytes"), 2**48 + 1, r"objects\[0\].size_bytes"),
    ((*OBJECT, "sha256"), "", r"objects\[0\].sha256"),
    ((*OBJECT, "profile_hash"), "00" * 32, r"objects: expected the key"),
    ((*OBJECT, "sha256"), ..., r"objects\[0\]: expected the keys"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD_VALUES)
def test_bad_values_are_named_by_their_path(path, value, message):
    with pytest.raises(BitstreamError, match=message):
        read_manifest(to_bytes(change(as_json(), path, value)))


@pytest.mark.parametrize("level", ["lossless", "raw"])
def test_lossy_provenance_never_promises_exactness(level):
    manifest = make_manifest(64, levels=("low", level))
    manifest.to_bytes()
    with pytest.raises(ValueError, match="not exact"):
        replace(manifest, exact=False).to_bytes()


def test_a_gap_between_chunks():
    first, _, last = MANIFEST.chunks
    with pytest.raises(ValueError, match=r"chunks\[1\].start: expected 128, got 256"):
        replace(MANIFEST, chunks=(first, last)).to_bytes()


def test_first_chunk_begins_at_zero():
    chunk = replace(MANIFEST.chunks[1], objects=make_manifest(128, 256).chunks[1].objects)
    manifest = replace(MANIFEST, chunks=(chunk,), num_tokens=256, context_id=chunk.chunk_id)
    with pytest.raises(ValueError, match=r"chunks\[0\].start: expected 0"):
        manifest.to_bytes()


VALID = MANIFEST.to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + VALID,
        VALID.decode().encode("utf-16"),
        VALID + b" ",
        b" " + VALID,
        VALID + VALID,
        VALID[:-1] + b',"exact":true}',
        b'{"chunks":[],' + VALID[1:],
        VALID.replace(b'"start":0', b'"start":0.0'),
        VALID.replace(b'"start":0', b'"start":-0'),
        VALID.replace(b'"start":0', b'"start":0e0'),
        VALID.replace(b'"start":0', b'"start":NaN'),
        VALID.replace(b'"start":0', b'"start":Infinity'),
        VALID.replace(b'"start":0', b'"start":' + b"9" * 5000),
        VALID.replace(b'"low"', b'"l\\u006fw"'),
        VALID.replace(b'"low"', b'"\\ud800"'),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"9" * 100_000,
        b'"' + b"a" * 100_000,
        b'"' + b"a" * 100_000 + b'"',
    ],
)
def test_hostile_documents(data):
    with pytest.raises(BitstreamError) as caught:
        read_manifest(data)
    assert caught.value.field.startswith("manifest")
    assert len(str(caught.value)) < 500


def test_kinds_are_sorted_out_once():
    """As many kinds as there may be, and thousands of chunks: each once was a second."""
    whole = make_manifest(*range(64, 64 * 2000, 64), levels=("lossless",))
    document = as_json(whole) | {"version": 2, "windows": list(range(1, 4097))}
    for chunk in document["chunks"]:
        chunk["objects"][0]["layers"] = "all"
    began_s = time.process_time()
    assert len(read_manifest(to_bytes(document)).chunks) == 1999
    assert time.process_time() - began_s < 10


def test_size_limit():
    with pytest.raises(BitstreamError, match="at most 16777216 bytes"):
        read_manifest(bytes(MAX_SIZE_BYTES + 1))


def test_truncation_at_every_byte():
    for size in range(len(VALID)):
        with pytest.raises(BitstreamError):
            read_manifest(VALID[:size])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
def test_flipped_bytes_are_refused_or_give_a_sound_manifest(index, mask):
    data = bytearray(VALID)
    data[index] ^= mask
    try:
        found = read_manifest(data)
    except BitstreamError:
        return
    assert found.to_bytes() == data
