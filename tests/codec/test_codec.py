"""Which codec and level is taken, and what is refused."""

from dataclasses import replace

import pytest
import torch

from cachegen.codec.codec import check_profile, decode_chunk, encode_chunk, resolve_level
from cachegen.errors import BitstreamError, ProfileMismatch


def test_levels_without_a_profile():
    assert resolve_level(None, None).name == "high"
    assert resolve_level(None, "lowest").codec == "adaptive"
    assert resolve_level(None, "raw").codec == "raw"
    with pytest.raises(ValueError, match=r"lowest, low, .*, raw; got 'text'"):
        resolve_level(None, "text")


def test_levels_of_a_profile(profile_of):
    profile = profile_of("gqa", torch.float32, "paper")
    assert resolve_level(profile, None) == profile.level(profile.default_level)
    assert resolve_level(profile, "low").codec == "paper"
    assert resolve_level(profile, "lossless").codec == "lossless"
    with pytest.raises(ValueError, match="got 'best'"):
        resolve_level(profile, "best")


@pytest.mark.parametrize("level", ("raw", "packed", "lossless"))
def test_fixed_levels_need_no_profile_to_decode(make_cache, profile_of, level):
    profile = profile_of("gqa", torch.float32, "plain")
    chunk = encode_chunk(make_cache("gqa", 20), profile=profile, level=level)
    assert chunk.profile_hash == bytes(32)
    assert decode_chunk(chunk).geometry == chunk.geometry


@pytest.mark.parametrize(("shapes", "dtype"), (("mqa", torch.float32), ("gqa", torch.float16)))
@pytest.mark.parametrize("level", (None, "raw"))
def test_a_profile_of_another_geometry_is_refused(make_cache, profile_of, shapes, dtype, level):
    profile = profile_of("gqa", torch.float32, "plain")
    with pytest.raises(ProfileMismatch, match="calibrate a profile for this model"):
        encode_chunk(make_cache(shapes, 20, dtype), profile=profile, level=level)


def test_only_the_profile_that_coded_a_chunk_decodes_it(make_cache, profile_of):
    profile = profile_of("gqa", torch.float32, "plain")
    chunk = encode_chunk(make_cache("gqa", 20), profile=profile)
    others = (
        None,
        profile_of("gqa", torch.float32, "paper"),
        profile_of("mqa", torch.float32, "plain"),
    )
    for other in others:
        with pytest.raises(ProfileMismatch, match=profile.hash.hex()):
            decode_chunk(chunk, profile=other)
    noted = replace(profile, notes={"text": "another"})
    with pytest.raises(ProfileMismatch):
        check_profile(chunk, noted)


def test_chunks_that_contradict_their_profile_are_refused(make_cache, profile_of):
    profile = profile_of("gqa", torch.float32, "plain")
    chunk = encode_chunk(make_cache("gqa", 20), profile=profile)
    narrower = replace(chunk.geometry, planes=chunk.geometry.planes[:2])
    with pytest.raises(ProfileMismatch, match="its profile is for"):
        decode_chunk(replace(chunk, geometry=narrower), profile=profile)
    with pytest.raises(ProfileMismatch, match="'paper', its profile is for 'plain'"):
        decode_chunk(replace(chunk, codec="paper"), profile=profile)
    with pytest.raises(BitstreamError, match="no level 'best'"):
        decode_chunk(replace(chunk, level="best"), profile=profile)


def test_a_profile_beside_a_chunk_that_carries_its_own_numbers_is_ignored(
    make_cache, profile_of, assert_same_bits
):
    chunk = encode_chunk(make_cache("gqa", 20), level="high")
    profile = profile_of("gqa", torch.float32, "plain")
    assert_same_bits(decode_chunk(chunk, profile=profile), decode_chunk(chunk))


def test_a_profile_makes_short_chunks_far_smaller(make_cache, profile_of):
    kv = make_cache("gqa", 64, seed=9)
    own = encode_chunk(kv, level="high")
    shared = encode_chunk(kv, level="high", profile=profile_of("gqa", torch.float32, "plain"))

    def overhead(chunk):
        return sum(array.nbytes for array in chunk.arrays.values())

    assert overhead(shared) < 0.5 * overhead(own)
