"""Decoding into the middle of a larger cache."""

from dataclasses import replace

import pytest
import torch

from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache

SHAPES = ("gqa", "latent", "mixed")


def larger(kv, before, after):
    """Sevens, and the part of them where the cache belongs."""
    planes = [
        torch.full((p.shape[0], before + p.shape[1] + after, p.shape[2]), 7.0, dtype=p.dtype)
        for p in kv.planes()
    ]
    num_tokens = before + kv.num_tokens + after
    whole = KVCache(tuple(planes[::2]), tuple(planes[1::2]), num_tokens, kv.start - before)
    return whole, whole.slice(before, before + kv.num_tokens)


def check(chunk, kv, assert_same_bits, **needed):
    whole, place = larger(kv, 3, 2)
    assert decode_chunk(chunk, out=place, **needed) is place
    assert_same_bits(place, decode_chunk(chunk, **needed))
    for plane in whole.planes():
        assert (plane[:, :3] == 7).all() and (plane[:, -2:] == 7).all()


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("level", ("raw", "lossless", "packed", "high"))
def test_a_place_is_filled_and_nothing_beside_it(
    make_cache, frozen, assert_same_bits, shapes, dtype, level
):
    kv = make_cache(shapes, 70, dtype, start=3)
    check(frozen(encode_chunk(kv, level=level)), kv, assert_same_bits)


@pytest.mark.parametrize("dtype", (torch.float8_e4m3fn, torch.float8_e5m2))
@pytest.mark.parametrize("level", ("raw", "lossless"))
def test_eight_bit_floats_too(make_cache, frozen, assert_same_bits, dtype, level):
    kv = make_cache("gqa", 5, dtype)
    place = KVCache(*(tuple(map(torch.empty_like, p)) for p in (kv.keys, kv.values)), 5)
    decode_chunk(frozen(encode_chunk(kv, level=level)), out=place)
    assert_same_bits(place, kv)


@pytest.mark.parametrize("codec", ("paper", "transform"))
def test_profiles_codecs_too(make_cache, profile_of, tokens_of, frozen, assert_same_bits, codec):
    profile, kv = profile_of("gqa", torch.float32, codec), make_cache("gqa", 70, start=3, seed=5)
    tokens = tokens_of(kv)
    chunk = encode_chunk(kv, tokens=tokens, profile=profile, level="lowest")
    assert chunk.codec == codec
    check(frozen(chunk), kv, assert_same_bits, profile=profile, tokens=tokens)


def test_a_place_of_another_shape_is_refused(make_cache):
    kv = make_cache("gqa", 6, start=3)
    chunk = encode_chunk(kv, level="raw")
    others = (
        make_cache("gqa", 5, start=3),
        make_cache("gqa", 6, start=4),
        make_cache("mqa", 6, start=3),
        make_cache("gqa", 6, torch.float16, start=3),
    )
    for other in others:
        with pytest.raises(ValueError, match="out"):
            decode_chunk(chunk, out=other)


def test_a_damaged_chunk_leaves_its_neighbours_alone(make_cache):
    kv = make_cache("gqa", 70, start=3)
    whole, place = larger(kv, 3, 2)
    chunk = encode_chunk(kv, level="packed")
    damaged = replace(chunk, arrays=chunk.arrays | {"codes": chunk.arrays["codes"][:-1]})
    with pytest.raises(BitstreamError, match="codes"):
        decode_chunk(damaged, out=place)
    for plane in whole.planes():
        assert (plane[:, :3] == 7).all() and (plane[:, -2:] == 7).all()
