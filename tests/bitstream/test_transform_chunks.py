"""Chunks that were coded for their tokens: what decoding checks, and forgeries of what they add."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from cachegen.bitstream.chunk import decode, describe, encode
from cachegen.bitstream.format import pack, unpack
from cachegen.bitstream.identity import tokens_to_bytes
from cachegen.errors import BitstreamError, CacheGenError, ProfileMismatch, TokensMismatch


@pytest.fixture
def sample(samples):
    return samples["transform"]


def decode_sample(sample, data: bytes | None = None):
    return decode(data or sample.data, profile=sample.profile, tokens=sample.tokens)


def with_arrays(sample, **arrays) -> bytes:
    """The sample with other arrays; None removes one."""
    chunk = unpack(sample.data)
    changed = {name: a for name, a in {**chunk.arrays, **arrays}.items() if a is not None}
    return pack(replace(chunk, arrays=changed))


def test_the_chunk_tells_what_it_was_coded_for(sample):
    chunk = describe(sample.data).chunk
    digest = hashlib.sha256(tokens_to_bytes(sample.tokens)).digest()
    assert (chunk.codec, chunk.profile_hash) == ("transform", sample.profile.hash)
    assert chunk.arrays["tokens_digest"].tobytes() == digest
    assert chunk.arrays["rung"].tolist() == [0]
    distortion, bound = chunk.arrays["distortion"]
    assert 0 < distortion <= bound == 0.5


def test_what_is_decoded_comes_close(sample):
    found = decode_sample(sample)
    assert (found.start, found.num_tokens) == (sample.kv.start, sample.kv.num_tokens)
    for a, b in zip(found.planes(), sample.kv.planes(), strict=True):
        assert (a.float() - b.float()).abs().max() < 0.3


@pytest.mark.parametrize("wrap", [list, np.array, lambda t: np.array(t, np.uint16)])
def test_tokens_are_any_sequence_of_integers(sample, wrap):
    tokens = wrap(sample.tokens)
    data = encode(sample.kv, tokens=tokens, profile=sample.profile)
    assert describe(data).chunk.arrays["tokens_digest"].tolist() == (
        describe(sample.data).chunk.arrays["tokens_digest"].tolist()
    )
    decode(data, tokens=tokens, profile=sample.profile)


def test_tokens_are_needed_to_encode(sample):
    with pytest.raises(ValueError, match="pass the chunk's `tokens`"):
        encode(sample.kv, profile=sample.profile)
    for tokens, message in (
        (sample.tokens[1:], "expected the 13 tokens of the cache, got 12"),
        ((-1, *sample.tokens[1:]), "expected token ids from 0"),
        ((0.5, *sample.tokens[1:]), "expected a flat sequence of integers"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(sample.kv, profile=sample.profile, tokens=tokens)


def test_tokens_are_needed_to_decode(sample):
    with pytest.raises(ValueError, match="pass the chunk's `tokens`"):
        decode(sample.data, profile=sample.profile)
    with pytest.raises(ValueError, match="expected token ids from 0"):
        decode(sample.data, profile=sample.profile, tokens=[-1] * 13)


@pytest.mark.parametrize("place", [0, 5, 12])
def test_other_tokens_are_refused(sample, place):
    tokens = list(sample.tokens)
    tokens[place] += 1
    with pytest.raises(TokensMismatch, match="coded for other tokens"):
        decode(sample.data, profile=sample.profile, tokens=tokens)


@pytest.mark.parametrize("count", [0, 12, 14])
def test_another_number_of_tokens_is_refused(sample, count):
    with pytest.raises(BitstreamError, match=f"expected a chunk of {count} tokens, got 13"):
        decode(sample.data, profile=sample.profile, tokens=[0] * count)


def test_levels_without_a_profile_take_any_tokens(sample):
    for level in ("raw", "packed", "lossless"):
        data = encode(sample.kv, tokens=sample.tokens, profile=sample.profile, level=level)
        assert not any(describe(data).chunk.profile_hash)
        decode(data)
        decode(data, tokens=[0] * 13)


def test_a_profile_of_another_codec_is_refused(samples, sample):
    with pytest.raises(ProfileMismatch):
        decode(sample.data, tokens=sample.tokens, profile=samples["plain-profile"].profile)


@pytest.mark.parametrize("name", ["tokens_digest", "rung", "distortion"])
def test_a_missing_array(sample, name):
    with pytest.raises(BitstreamError, match=name):
        decode_sample(sample, with_arrays(sample, **{name: None}))


@pytest.mark.parametrize(
    ("name", "length"),
    [("tokens_digest", 31), ("tokens_digest", 25), ("rung", 2), ("rung", 8), ("distortion", 1)],
)
def test_an_array_of_another_length(sample, reseal, name, length):
    info = describe(sample.data)
    index = next(i for i, entry in enumerate(info.entries) if entry.name == name)
    forged = bytearray(sample.data)
    table = 144 + 24 * struct.unpack_from("<H", forged, 44)[0] + len(info.chunk.level)
    struct.pack_into("<I", forged, table + 24 * index + 4, length)
    message = rf"arrays\[{index}\].dims at byte \d+: expected \d+ entries of {name}, got {length}"
    with pytest.raises(BitstreamError, match=message):
        decode_sample(sample, reseal(bytes(forged)))


@pytest.mark.parametrize("rung", [1, 7, 255])
def test_a_rung_that_the_profile_lacks(sample, rung):
    with pytest.raises(BitstreamError, match="rung"):
        decode_sample(sample, with_arrays(sample, rung=np.array([rung], np.uint8)))


@pytest.mark.parametrize(
    "values", [(np.nan, 1), (0, np.nan), (np.inf, 1), (0, np.inf), (-1, 1), (0, -1)]
)
def test_a_distortion_that_is_no_number(sample, values):
    with pytest.raises(BitstreamError, match="distortion"):
        decode_sample(sample, with_arrays(sample, distortion=np.array(values, np.float32)))


def test_a_forged_digest(sample):
    with pytest.raises(TokensMismatch):
        decode_sample(sample, with_arrays(sample, tokens_digest=np.zeros(32, np.uint8)))


def test_a_chunk_that_names_no_profile(sample):
    data = pack(replace(unpack(sample.data), profile_hash=bytes(32)))
    for profile in (None, sample.profile):
        with pytest.raises(BitstreamError, match="profile_hash"):
            decode(data, profile=profile, tokens=sample.tokens)


@pytest.mark.parametrize("held", [0, 5, 12])
def test_a_layer_that_lacks_tokens(sample, held):
    chunk = unpack(sample.data)
    with pytest.raises(BitstreamError, match="tokens_held"):
        decode_sample(sample, pack(replace(chunk, tokens_held=(chunk.num_tokens, held))))


@pytest.mark.parametrize("escape", [-(2**31), 2**31 - 1, -512, 512])
def test_an_escape_beyond_the_largest_coefficient(sample, escape):
    chunk = unpack(sample.data)
    block = chunk.blocks[0]
    constant = replace(
        block,
        active=np.zeros_like(block.active),
        constants=np.zeros(len(block.active), np.uint8),
        escapes=np.full(block.num_rows * len(block.active), escape, np.int32),
        sizes=block.sizes[:0],
        words=block.words[-32:],
    )
    with pytest.raises(BitstreamError, match="escapes"):
        decode_sample(sample, pack(replace(chunk, blocks=(constant, *chunk.blocks[1:]))))


@pytest.mark.parametrize("codec", ["raw", "packed", "lossless", "plain", "paper", "adaptive"])
def test_another_codec_s_name(sample, codec):
    with pytest.raises(CacheGenError):
        decode_sample(sample, pack(replace(unpack(sample.data), codec=codec)))


@pytest.mark.parametrize("kind", ["raw", "packed", "lossless", "plain", "plain-profile", "paper"])
def test_another_codec_s_chunk_under_this_name(samples, sample, kind):
    other = samples[kind]
    data = pack(replace(unpack(other.data), codec="transform"))
    for profile in (other.profile, sample.profile):
        with pytest.raises(CacheGenError):
            decode(data, profile=profile, tokens=sample.tokens)
