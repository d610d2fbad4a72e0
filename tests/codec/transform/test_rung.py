from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec import codecs
from cachegen.codec.blocks import decode_block, encode_block
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.levels import LADDER
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import to_symbols
from cachegen.codec.tables import table_frequencies
from cachegen.codec.transform.rung import fill_steps
from cachegen.errors import BitstreamError, ProfileMismatch, TokensMismatch

COMPLETE = ("gqa", "mqa", "mla", "latent", "mixed")


@pytest.fixture(scope="module")
def profile(profile_of):
    return profile_of("gqa", torch.bfloat16, "transform")


@pytest.fixture
def coded(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 80, torch.bfloat16, seed=5)
    return encode_chunk(kv, tokens=tokens_of(kv), profile=profile)


def error_of(left, right):
    pairs = zip(left.planes(), right.planes(), strict=True)
    return sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)


@pytest.mark.parametrize("shapes", COMPLETE)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_better_levels_are_closer(profile_of, make_cache, tokens_of, shapes, dtype):
    profile = profile_of(shapes, dtype, "transform")
    kv = make_cache(shapes, 70, dtype, seed=8)
    errors = []
    for name in LADDER:
        chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level=name)
        assert (chunk.codec, chunk.level) == ("transform", name)
        found = decode_chunk(chunk, tokens=tokens_of(kv), profile=profile)
        assert found.geometry == kv.geometry
        errors.append(error_of(kv, found))
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) >= 4


@pytest.mark.parametrize("num_tokens", (0, 1, 3, 4, 5, 33))
@pytest.mark.parametrize("start", (0, 2, 64))
def test_short_chunks_at_any_place(profile, make_cache, tokens_of, num_tokens, start):
    kv = make_cache("gqa", num_tokens, torch.bfloat16, start=start, seed=6)
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="highest")
    found = decode_chunk(chunk, tokens=tokens_of(kv), profile=profile)
    assert (found.start, found.num_tokens) == (start, num_tokens)
    assert error_of(kv, found) <= 0.05 * error_of(kv, decode_zeros(kv))


def decode_zeros(kv):
    keys, values = ([torch.zeros_like(p) for p in side] for side in (kv.keys, kv.values))
    return replace(kv, keys=tuple(keys), values=tuple(values))


def test_a_chunk_keeps_its_bound_and_says_what_it_lost(profile, coded):
    lost, bound = coded.arrays["distortion"].tolist()
    level = profile.level(coded.level)
    assert 0 < lost <= bound == pytest.approx(level.bound)
    assert coded.arrays["rung"].tolist() == [profile.levels.index(level)]


def test_a_cache_unlike_the_samples_is_coded_finer(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 800, torch.bfloat16, seed=5)
    kv.values[0][:, 10:30] += 6
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="lowest")
    assert chunk.codec == "transform"
    assert chunk.level == "lowest"
    assert chunk.arrays["rung"][0] > 0
    assert chunk.arrays["distortion"][0] <= chunk.arrays["distortion"][1]
    found = decode_chunk(chunk, tokens=tokens_of(kv), profile=profile)
    assert found.geometry == kv.geometry


def test_a_strange_cache_is_coded_alone(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 800, torch.bfloat16, seed=5)
    kv.values[0][:, ::2] += 3
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="low")
    assert (chunk.codec, chunk.level) == ("adaptive", "low")
    assert chunk.profile_hash == bytes(32)
    found = decode_chunk(chunk)
    alone = decode_chunk(encode_chunk(kv, level="low", rope=profile.rope))
    assert all(map(torch.equal, found.planes(), alone.planes()))
    assert error_of(kv, found) < 0.02 * error_of(kv, decode_zeros(kv))


@pytest.mark.parametrize(("bounds", "codec"), ((9.9, "adaptive"), (10.1, "lossless")))
def test_what_is_coded_alone_may_measure_ten_bounds(
    profile, make_cache, tokens_of, monkeypatch, bounds, codec
):
    kv = make_cache("gqa", 800, torch.bfloat16, seed=5)
    kv.values[0][:, ::2] += 3
    bound = next(level.bound for level in profile.levels if level.name == "low")
    monkeypatch.setattr(codecs, "distance", lambda *_: bounds * bound)
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="low")
    assert (chunk.codec, chunk.level) == (codec, "low")


def test_a_level_of_another_name_gives_way_to_the_default(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 800, torch.bfloat16, seed=5)
    kv.values[0][:, ::2] += 3
    levels = tuple(replace(level, name=f"q{level.name}") for level in profile.levels)
    other = replace(profile, levels=levels, default_level=levels[0].name)
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=other, level="qlow")
    assert (chunk.codec, chunk.level) == ("adaptive", "qlow")
    alone = decode_chunk(encode_chunk(kv, rope=profile.rope))
    assert all(map(torch.equal, decode_chunk(chunk).planes(), alone.planes()))


def test_a_cache_that_no_level_holds_is_lossless(profile, make_cache, tokens_of, assert_same_bits):
    kv = make_cache("gqa", 80, torch.bfloat16, seed=5, scale=1000.0)
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="lowest")
    assert (chunk.codec, chunk.level) == ("lossless", "lowest")
    assert_same_bits(decode_chunk(chunk), kv)


def test_windows_are_coded_alone(profile_of, make_cache, tokens_of):
    kv = make_cache("windowed", 40, seed=5)
    complete = make_cache("windowed", 7, seed=1)
    assert not kv.is_complete and complete.is_complete
    profile = profile_of("windowed", torch.float32, "plain")
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile)
    assert decode_chunk(chunk, profile=profile).num_tokens == 40


def test_nan_is_lossless(profile, make_cache, tokens_of, assert_same_bits):
    kv = make_cache("gqa", 20, torch.bfloat16, seed=5)
    kv.keys[1][0, 9, 3] = float("nan")
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile)
    assert chunk.codec == "lossless"
    assert_same_bits(decode_chunk(chunk), kv)


def test_tokens_are_needed(profile, coded, make_cache):
    kv = make_cache("gqa", 10, torch.bfloat16)
    with pytest.raises(ValueError, match="pass the chunk's `tokens`"):
        encode_chunk(kv, profile=profile)
    with pytest.raises(ValueError, match="10 tokens"):
        encode_chunk(kv, tokens=[1, 2], profile=profile)
    with pytest.raises(ValueError, match="pass the chunk's `tokens`"):
        decode_chunk(coded, profile=profile)


def test_other_tokens_are_refused(profile, coded, make_cache, tokens_of):
    tokens = tokens_of(make_cache("gqa", 80))
    decode_chunk(coded, tokens=tokens, profile=profile)
    for other in (tokens[:-1], [*tokens[:-1], 19], tokens[::-1], []):
        with pytest.raises(TokensMismatch, match="80 token ids"):
            decode_chunk(coded, tokens=other, profile=profile)


def test_the_tokens_make_it_smaller(profile_of, make_cache, sample_of, rope_of):
    """Values that follow from the text cost nothing; without features they do."""
    from cachegen.codec.calibration.calibrate import calibrate
    from cachegen.codec.levels import Quality

    rng = np.random.default_rng(0)
    table = rng.normal(size=(20, 6)).astype(np.float32)
    maps = torch.from_numpy(rng.normal(size=(6, 16)).astype(np.float32))

    def sample(seed):
        one = sample_of(make_cache("mqa", 200, seed=seed, scale=0.05), seed=seed)
        tokens = np.random.default_rng(seed).integers(0, 20, size=200)
        told = (torch.from_numpy(table[tokens]) @ maps).view(200, 2, 8)
        kv = replace(
            one.kv,
            keys=tuple(key + told[None, :, 0] for key in one.kv.keys),
            values=tuple(value + told[None, :, 1] for value in one.kv.values),
        )
        return replace(one, tokens=tokens, kv=kv)

    held_out, sizes = sample(9), []

    def evaluate(roundtrip):
        found = roundtrip(held_out.kv, held_out.tokens.tolist())
        lost = error_of(held_out.kv, found) / error_of(held_out.kv, decode_zeros(held_out.kv))
        return {"text": Quality(lost, 0.0, 1.0, 1)}

    for features in (table, None):
        profile = calibrate(
            lambda: [sample(seed) for seed in (1, 2, 3)],
            evaluate=evaluate,
            fingerprint=bytes(32),
            rope=RopeMap.none(4),
            token_features=features,
        )
        chunk = encode_chunk(held_out.kv, tokens=held_out.tokens.tolist(), profile=profile)
        sizes.append(sum(block.words.nbytes for block in chunk.blocks))
    assert sizes[0] < 0.8 * sizes[1]


def test_another_profile_is_refused(profile, profile_of, coded, make_cache, tokens_of):
    tokens = tokens_of(make_cache("gqa", 80))
    for other in (None, profile_of("gqa", torch.bfloat16, "plain")):
        with pytest.raises(ProfileMismatch):
            decode_chunk(coded, tokens=tokens, profile=other)


@pytest.mark.parametrize(
    ("name", "values", "field"),
    (
        ("rung", np.array([200], np.uint8), "rung"),
        ("rung", np.array([0, 0], np.uint8), "rung"),
        ("distortion", np.array([np.nan, 1], np.float32), "distortion"),
        ("distortion", np.array([-1, 1], np.float32), "distortion"),
        ("tokens_digest", np.zeros(31, np.uint8), "tokens_digest"),
        ("tokens_digest", None, "tokens_digest"),
        ("scales", np.zeros(3, np.uint16), "scales"),
    ),
)
def test_damaged_arrays(profile, coded, make_cache, tokens_of, name, values, field):
    arrays = {key: value for key, value in coded.arrays.items() if key != name}
    if values is not None:
        arrays[name] = values
    with pytest.raises(BitstreamError) as caught:
        decode_chunk(
            replace(coded, arrays=arrays),
            tokens=tokens_of(make_cache("gqa", 80)),
            profile=profile,
        )
    assert caught.value.field == field


def test_blocks_that_are_missing(profile, coded, make_cache, tokens_of):
    with pytest.raises(BitstreamError, match=r"[12] blocks, got 0"):
        decode_chunk(
            replace(coded, blocks=()), tokens=tokens_of(make_cache("gqa", 80)), profile=profile
        )


@pytest.mark.parametrize("spread", (0.5, 4.0, 90.0))
def test_coefficients_come_back_with_their_escapes(spread):
    rng = np.random.default_rng(1)
    integers = rng.normal(0, spread, (90, 50)).round().astype(np.int32)
    integers[:, 7] = 3
    ids = rng.integers(0, 4, 50)
    counts = np.zeros((4, 256), dtype=np.int64)
    counts[:, 120:137] = rng.integers(1, 9, (4, 17))
    frequencies = table_frequencies(counts, margin=0, escape=True)
    symbols, escapes = to_symbols(integers, ids, frequencies)
    assert (len(escapes) > 0) == (spread > 1)
    block = encode_block(symbols, escapes, ids, frequencies, threads=1)
    decoded = decode_block(block, ids, frequencies, threads=1)
    found = np.empty(integers.shape, dtype=np.int16)
    fill_steps(found, decoded, block.escapes, np.full(len(integers), 511))
    assert (found == integers).all()
