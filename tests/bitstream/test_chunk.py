"""`encode`, `decode` and `describe` on real chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cachegen.bitstream.chunk import decode, describe, encode
from cachegen.bitstream.format import pack, unpack
from cachegen.errors import BitstreamError, ProfileMismatch

OTHER = bytes([9] * 32)


def assert_same_cache(one, other) -> None:
    assert (one.num_tokens, one.start, one.geometry) == (
        other.num_tokens,
        other.start,
        other.geometry,
    )
    for a, b in zip(one.planes(), other.planes(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("level", ["raw", "lossless"])
def test_exact_levels_give_the_cache_back(samples, level):
    kv = samples["raw"].kv
    assert_same_cache(decode(encode(kv, level=level)), kv)


@pytest.mark.parametrize("level", [None, "highest", "packed"])
def test_lossy_levels_come_close(samples, level):
    kv = samples["raw"].kv
    found = decode(encode(kv, level=level))
    assert (found.start, found.num_tokens) == (kv.start, kv.num_tokens)
    for a, b in zip(found.planes(), kv.planes(), strict=True):
        assert (a.float() - b.float()).abs().max() < 0.3


def test_a_profile_takes_the_statistics_out_of_the_chunk(samples):
    sample = samples["plain-profile"]
    data = encode(sample.kv, profile=sample.profile, tokens=sample.tokens)
    assert len(data) < len(samples["plain"].data)
    assert_same_cache(
        decode(data, profile=sample.profile, tokens=sample.tokens),
        decode(sample.data, profile=sample.profile, tokens=sample.tokens),
    )


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer(sample, wrap):
    found = decode(wrap(sample.data), profile=sample.profile, tokens=sample.tokens)
    assert_same_cache(found, decode(sample.data, profile=sample.profile, tokens=sample.tokens))


def test_there_is_one_way_to_write_a_chunk(sample):
    assert pack(unpack(sample.data)) == sample.data


def test_result_does_not_alias_the_input(samples):
    for level in ("raw", "packed", "lossless"):
        data = bytearray(encode(samples["raw"].kv, level=level))
        found = decode(data)
        before = [plane.clone() for plane in found.planes()]
        data[:] = bytes(len(data))
        for a, b in zip(before, found.planes(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["plain-profile", "paper-profile"])
def test_profile_is_needed_and_must_be_the_right_one(samples, kind):
    sample = samples[kind]
    needed = sample.profile.hash.hex()
    with pytest.raises(ProfileMismatch, match=f"{needed}.* none"):
        decode(sample.data)
    other = replace(sample.profile, fingerprint=OTHER)
    with pytest.raises(ProfileMismatch, match=f"{needed}.*{other.hash.hex()}"):
        decode(sample.data, profile=other)


def test_a_profile_that_is_not_needed_does_no_harm(samples):
    profile = samples["plain-profile"].profile
    assert_same_cache(decode(samples["raw"].data, profile=profile), samples["raw"].kv)


def test_wrong_model_is_refused_where_both_are_known(samples):
    kv = samples["raw"].kv
    known, unknown = encode(kv, level="raw", fingerprint=OTHER), encode(kv, level="raw")
    decode(known, fingerprint=OTHER)
    decode(known)
    decode(known, fingerprint=bytes(32))
    decode(unknown, fingerprint=OTHER)
    with pytest.raises(ProfileMismatch, match=f"{OTHER.hex()}.*{bytes(range(32)).hex()}"):
        decode(known, fingerprint=bytes(range(32)))


def test_number_of_tokens_must_fit(samples):
    sample = samples["raw"]
    decode(sample.data, tokens=range(sample.kv.num_tokens))
    with pytest.raises(BitstreamError, match="expected a chunk of 12 tokens, got 13"):
        decode(sample.data, tokens=[0] * 12)


def test_describe(samples):
    sample = samples["plain-profile"]
    info = describe(sample.data)
    assert info.size_bytes == len(sample.data)
    assert info.header_bytes + sum(entry.padded_bytes for entry in info.entries) == info.size_bytes
    assert info.chunk.level == "high"
    assert info.chunk.codec == "plain"
    assert info.chunk.profile_hash == sample.profile.hash
    assert info.chunk.geometry == sample.kv.geometry
    assert len(info.chunk.blocks) == 1
    assert info.entries[0].label == "blocks[0].shape"


def test_describe_verifies_checksums(samples):
    data = bytearray(samples["raw"].data)
    data[-1] ^= 1
    with pytest.raises(BitstreamError, match=r"rows at byte .*checksum"):
        describe(bytes(data))


def test_identity_is_recorded(samples):
    data = encode(samples["raw"].kv, level="raw", fingerprint=OTHER, chunk_id=bytes(range(32)))
    chunk = describe(data).chunk
    assert (chunk.fingerprint, chunk.chunk_id) == (OTHER, bytes(range(32)))
    with pytest.raises(ValueError, match="32 bytes"):
        encode(samples["raw"].kv, level="raw", chunk_id=b"1")
