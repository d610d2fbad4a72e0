"""Every codec, level, dtype and geometry, there and back."""

import pytest
import torch

from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.kvcache import KVCache

SHAPES = ("gqa", "mqa", "mla", "latent", "mixed", "windowed")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
TOKENS = (0, 1, 2, 5, 11, 63, 64, 65)
LADDER = ("lowest", "low", "medium", "high", "highest")


def relative_error(kv, decoded):
    error = sum(
        float((a.float() - b.float()).square().sum())
        for a, b in zip(kv.planes(), decoded.planes(), strict=True)
    )
    return error / max(sum(float(p.float().square().sum()) for p in kv.planes()), 1e-30)


def assert_alike(kv, decoded, most):
    assert decoded.geometry == kv.geometry
    assert (decoded.start, decoded.num_tokens) == (kv.start, kv.num_tokens)
    assert [p.shape for p in decoded.planes()] == [p.shape for p in kv.planes()]
    assert all(p.is_contiguous() for p in decoded.planes())
    assert relative_error(kv, decoded) <= most


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES + FP8)
@pytest.mark.parametrize("level", ("raw", "lossless"))
def test_exact_levels_keep_every_bit(make_cache, frozen, assert_same_bits, shapes, dtype, level):
    for tokens in TOKENS:
        kv = make_cache(shapes, tokens, dtype, start=3)
        chunk = encode_chunk(kv, level=level)
        assert chunk.codec == level
        assert_same_bits(decode_chunk(frozen(chunk)), kv)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("level", "most"), (("lowest", 0.2), ("high", 0.01), ("highest", 3e-3), ("packed", 3e-4))
)
def test_lossy_levels_without_a_profile(make_cache, rope_of, frozen, shapes, dtype, level, most):
    for tokens in TOKENS:
        kv = make_cache(shapes, tokens, dtype, start=tokens % 3)
        chunk = encode_chunk(kv, level=level, rope=rope_of(kv))
        assert chunk.codec == ("packed" if level == "packed" else "adaptive")
        assert_alike(kv, decode_chunk(frozen(chunk)), most)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("preset", ("plain", "paper"))
def test_lossy_levels_with_a_profile(make_cache, profile_of, frozen, shapes, preset):
    profile = profile_of(shapes, torch.bfloat16, preset)
    for tokens in TOKENS:
        kv = make_cache(shapes, tokens, torch.bfloat16, start=2, seed=9)
        for level in ("lowest", "medium", "highest"):
            chunk = encode_chunk(kv, profile=profile, level=level)
            assert (chunk.codec, chunk.level) == (preset, level)
            assert chunk.profile_hash == profile.hash
            assert_alike(kv, decode_chunk(frozen(chunk), profile=profile), 0.3)


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("level", (*LADDER, "packed"))
def test_eight_bit_floats_are_coded_lossless(make_cache, assert_same_bits, dtype, level):
    kv = make_cache("gqa", 20, dtype)
    chunk = encode_chunk(kv, level=level)
    assert (chunk.codec, chunk.level) == ("lossless", level)
    assert_same_bits(decode_chunk(chunk), kv)


@pytest.mark.parametrize("dtype", DTYPES)
def test_better_levels_take_more_bytes_and_err_less(make_cache, rope_of, dtype):
    kv = make_cache("gqa", 200, dtype)
    sizes, errors = [], []
    for level in LADDER:
        chunk = encode_chunk(kv, level=level, rope=rope_of(kv))
        sizes.append(sum(len(block.words) for block in chunk.blocks))
        errors.append(relative_error(kv, decode_chunk(chunk)))
    assert sizes == sorted(set(sizes))
    assert errors == sorted(set(errors), reverse=True)


@pytest.mark.parametrize("level", ("packed", "high", "paper"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_zero_caches_come_back_as_zeros(make_cache, profile_of, level, dtype):
    profile = profile_of("gqa", dtype, "paper") if level == "paper" else None
    kv = make_cache("gqa", 30, dtype, scale=0.0)
    chunk = encode_chunk(kv, profile=profile, level=None if profile else level)
    assert chunk.codec != "lossless"
    decoded = decode_chunk(chunk, profile=profile)
    assert all(not plane.float().any() for plane in decoded.planes())


def test_a_cache_that_never_changes_is_exact_and_small(make_cache, assert_same_bits):
    one = make_cache("gqa", 1, torch.bfloat16, start=9)
    layers = [
        (k.expand(-1, 500, -1), v.expand(-1, 500, -1))
        for k, v in zip(one.keys, one.values, strict=True)
    ]
    kv = KVCache.from_layers(layers, start=9)
    chunk = encode_chunk(kv, level="high")
    assert_same_bits(decode_chunk(chunk), kv)
    assert sum(len(block.words) for block in chunk.blocks) == 32
    assert not any(block.active.any() for block in chunk.blocks)


@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
@pytest.mark.parametrize("preset", (None, "plain", "paper"))
@pytest.mark.parametrize("token", (0, 17))
def test_nan_and_infinity_are_coded_lossless(
    make_cache, profile_of, assert_same_bits, value, preset, token
):
    profile = profile_of("gqa", torch.bfloat16, preset) if preset else None
    kv = make_cache("gqa", 40, torch.bfloat16)
    kv.values[1][1, token, 3] = value
    for level in ("lowest", "highest", "packed"):
        chunk = encode_chunk(kv, profile=profile, level=level)
        assert (chunk.codec, chunk.level) == ("lossless", level)
        assert chunk.profile_hash == bytes(32)
        assert_same_bits(decode_chunk(chunk), kv)


@pytest.mark.parametrize("preset", (None, "plain", "paper"))
def test_outliers_become_escapes(make_cache, profile_of, preset):
    profile = profile_of("gqa", torch.float32, preset) if preset else None
    kv = make_cache("gqa", 60)
    kv.keys[0][0, 33, 5] = 2e4
    kv.keys[2][1, 21, 0] = -3e5
    chunk = encode_chunk(kv, profile=profile, level="highest")
    decoded = decode_chunk(chunk, profile=profile)
    assert preset == "paper" or sum(len(block.escapes) for block in chunk.blocks) >= 2
    assert abs(decoded.keys[0][0, 33, 5] / 2e4 - 1) < 0.05
    assert abs(decoded.keys[2][1, 21, 0] / -3e5 - 1) < 0.05


def test_values_beyond_what_an_integer_holds_are_coded_lossless(
    make_cache, profile_of, assert_same_bits
):
    kv = make_cache("gqa", 60)
    kv.keys[0][0, 33, 5] = 1e30
    profile = profile_of("gqa", torch.float32, "plain")
    chunk = encode_chunk(kv, profile=profile)
    assert chunk.codec == "lossless"
    assert_same_bits(decode_chunk(chunk), kv)


@pytest.mark.parametrize("scale", (1e-41, 1e-35, 1e-20, 1e15, 1e37))
@pytest.mark.parametrize("level", ("packed", "high", "highest"))
def test_extreme_magnitudes_stay_finite(make_cache, scale, level):
    kv = make_cache("gqa", 40, scale=scale)
    chunk = encode_chunk(kv, level=level)
    assert chunk.codec != "lossless"
    decoded = decode_chunk(chunk)
    assert all(torch.isfinite(plane).all() for plane in decoded.planes())
    largest = max(float(plane.abs().max()) for plane in kv.planes())
    error = max(
        float((a - b).abs().max()) for a, b in zip(kv.planes(), decoded.planes(), strict=True)
    )
    assert error <= (0.4 if scale > 1e-30 else 1) * largest


def test_float16_saturates(make_cache):
    kv = make_cache("gqa", 40, torch.float16)
    for plane in kv.planes():
        plane[:, 30:] = 65504.0
    decoded = decode_chunk(encode_chunk(kv, level="lowest"))
    assert all(torch.isfinite(plane).all() for plane in decoded.planes())


def test_views_and_strides_do_not_matter(make_cache, assert_same_bits):
    kv = make_cache("mixed", 70, torch.bfloat16)
    part = kv.slice(13, 50)
    own = KVCache(
        tuple(k.clone() for k in part.keys), tuple(v.clone() for v in part.values), 37, 13
    )
    for level in ("raw", "lossless", "packed", "high"):
        left, right = (decode_chunk(encode_chunk(c, level=level)) for c in (part, own))
        assert_same_bits(left, right)


def test_encoding_leaves_the_cache_alone(make_cache, rope_of, profile_of, assert_same_bits):
    kv, same = (make_cache("gqa", 40) for _ in range(2))
    for level in (*LADDER, "packed", "lossless", "raw"):
        encode_chunk(kv, level=level, rope=rope_of(kv))
        encode_chunk(kv, level=level, profile=profile_of("gqa", torch.float32, "paper"))
    assert_same_bits(kv, same)
