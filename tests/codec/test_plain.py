"""Preset `plain`: error bounds, sinks, rotations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec import codec, plain
from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import EncodeRequest, codec_of
from cachegen.codec.levels import FIXED_LEVELS, EncodingLevel, find_level
from cachegen.codec.matrix import SINKS
from cachegen.codec.model import model_from_arrays
from cachegen.codec.rope import Rope, RopeMap, rotate
from cachegen.codec.symbols import DEAD_ZONE
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache

LADDER = {"lowest": 1.0, "low": 0.6, "medium": 0.35, "high": 0.2, "highest": 0.1}


def encode_chunk(kv, *, level=None, rope=None, profile=None):
    """By `plain`, with the steps that it once had without a profile."""
    if profile is not None:
        return codec.encode_chunk(kv, profile=profile)
    if level in LADDER:
        chosen = EncodingLevel(level, "plain", LADDER[level])
    else:
        chosen = find_level(FIXED_LEVELS, level)
    return codec_of(chosen.codec).encode(
        kv, EncodeRequest(chosen, None, rope or RopeMap.none(2 * kv.num_layers), threads=1)
    )


def unrotated(kv, rope):
    """Every plane as float64 (tokens, heads, dim), keys turned back."""
    found = []
    for index, plane in enumerate(kv.planes()):
        rows = plane.transpose(0, 1).float().contiguous()
        turn = rope.rope(index)
        if turn is not None:
            positions = torch.arange(kv.stop - len(rows), kv.stop)
            rotate(rows, turn, positions, inverse=True)
        found.append(rows.double())
    return found


@pytest.mark.parametrize("level", LADDER)
@pytest.mark.parametrize("shapes", ("gqa", "mixed", "windowed"))
def test_error_is_within_the_step_and_its_dead_zone(make_cache, rope_of, level, shapes):
    kv = make_cache(shapes, 80)
    rope = rope_of(kv)
    chunk = encode_chunk(kv, level=level, rope=rope)
    pairs = zip(unrotated(kv, rope), unrotated(decode_chunk(chunk), rope), strict=True)
    for (original, decoded), step in zip(pairs, chunk.arrays["steps"], strict=True):
        error = (original - decoded)[SINKS:].abs()
        assert error.max() <= (1 - DEAD_ZONE) * step * 1.0001 + 1e-5
        assert error.max() > 0.4 * step


def test_values_inside_the_dead_zone_become_their_mean(make_cache):
    kv = make_cache("gqa", 60, start=9)
    chunk = encode_chunk(kv, level="lowest")
    model = model_from_arrays(chunk.arrays, chunk.geometry, codec="plain")
    offsets = np.concatenate([[0], np.cumsum([p.width for p in kv.geometry.planes])])
    for index, (plane, decoded) in enumerate(
        zip(kv.planes(), decode_chunk(chunk).planes(), strict=True)
    ):
        mean = torch.tensor(model.means[offsets[index] : offsets[index + 1]]).view(2, 1, 16)
        small = (plane - mean).abs() < 0.999 * (1 - DEAD_ZONE) * model.steps[index]
        assert small.any()
        assert (decoded == mean)[small].all()


@pytest.mark.parametrize("start", (0, 1, 3))
def test_sinks_are_much_finer_than_the_rest(make_cache, rope_of, start):
    kv = make_cache("gqa", 50, start=start)
    decoded = decode_chunk(encode_chunk(kv, level="lowest", rope=rope_of(kv)))
    num_sinks = SINKS - start
    for plane, found in zip(kv.planes(), decoded.planes(), strict=True):
        error = (plane - found).square().mean(dim=(0, 2)).sqrt()
        assert error[:num_sinks].max() < 0.1 * error[num_sinks:].min()
        assert ((plane - found)[:, :num_sinks].abs() <= plane.abs().max() / 127).all()


def test_sinks_are_those_of_packed(make_cache, rope_of):
    kv = make_cache("gqa", 50, torch.bfloat16)
    lossy = decode_chunk(encode_chunk(kv, level="lowest", rope=rope_of(kv)))
    packed = decode_chunk(encode_chunk(kv, level="packed"))
    for left, right in zip(lossy.planes(), packed.planes(), strict=True):
        assert left[:, :4].equal(right[:, :4])
        assert not left[:, 4:].equal(right[:, 4:])


@pytest.mark.parametrize(("start", "tokens", "sinks"), ((0, 9, 4), (0, 3, 3), (2, 9, 2), (4, 9, 0)))
def test_only_the_first_tokens_of_a_context_are_sinks(make_cache, start, tokens, sinks):
    kv = make_cache("gqa", tokens, start=start)
    chunk = encode_chunk(kv, level="high")
    assert len(chunk.arrays["codes"]) == sinks * kv.geometry.values_per_token
    assert chunk.blocks[0].num_rows == tokens - sinks


def test_layers_that_lost_their_first_tokens_have_no_sinks(make_cache):
    kv = make_cache("windowed", 20)
    chunk = encode_chunk(kv, level="high")
    assert [block.num_rows for block in chunk.blocks] == [16, 7]
    assert len(chunk.arrays["codes"]) == 4 * kv.geometry.values_per_token // 2


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shapes", ("gqa", "latent", "mixed", "windowed"))
def test_roundtrip_is_decode_after_encode(
    make_cache, profile_of, frozen, assert_same_bits, dtype, shapes
):
    profile = profile_of(shapes, torch.float32, "plain")
    for level in ("lowest", "highest"):
        model = profile.model(level)
        for tokens in (0, 3, 70):
            kv = make_cache(shapes, tokens, dtype, start=1, seed=5)
            blocks, arrays = plain.encode(kv, model, threads=1)
            empty = encode_chunk(kv, level="raw")
            chunk = frozen(replace(empty, codec="plain", blocks=blocks, arrays=arrays))
            decoded = make_cache(shapes, tokens, dtype, start=1)
            plain.decode(chunk, list(decoded.planes()), model, threads=1)
            assert_same_bits(plain.roundtrip(kv, model), decoded)


def test_unrotating_pays_on_keys_that_only_turn():
    """A key that is one vector, rotated, costs nothing once the rotation is off."""
    rope = RopeMap((Rope((0.5, 0.05)),), (0, None))
    rows = torch.randn((1, 1, 4), generator=torch.Generator().manual_seed(0)).repeat(300, 1, 1)
    rotate(rows, rope.ropes[0], torch.arange(4, 304), inverse=False)
    key = rows.transpose(0, 1).contiguous()
    kv = KVCache.from_layers([(key, torch.zeros((1, 300, 4)))], start=4)
    turned = decode_chunk(encode_chunk(kv, level="lowest", rope=rope))
    kept = decode_chunk(encode_chunk(kv, level="lowest"))
    assert (turned.keys[0] - key).abs().max() < 1e-5
    assert (kept.keys[0] - key).abs().max() > 0.1


def test_a_chunk_is_turned_by_absolute_positions():
    """Chunks of one context share means only if positions are counted from its beginning."""
    rope = RopeMap((Rope((0.5, 0.05)),), (0, None))
    rows = torch.ones((300, 1, 4))
    rotate(rows, rope.ropes[0], torch.arange(1000, 1300), inverse=False)
    key = rows.transpose(0, 1).contiguous()
    kv = KVCache.from_layers([(key, torch.zeros((1, 300, 4)))], start=1000)
    chunk = encode_chunk(kv, level="lowest", rope=rope)
    assert np.allclose(chunk.arrays["means"][:4], 1, atol=1e-3)


def test_rotations_of_other_planes_are_refused(make_cache):
    kv = make_cache("mqa", 10)
    with pytest.raises(ValueError, match="planes"):
        encode_chunk(kv, level="high", rope=RopeMap.none(3))
    wide = RopeMap((Rope((1.0,) * 5),), (0, None, None, None))
    with pytest.raises(ValueError, match="10 dimensions turn, a head has 8"):
        encode_chunk(kv, level="high", rope=wide)


def test_a_chunk_without_a_profile_carries_everything(make_cache, rope_of):
    kv = make_cache("gqa", 60)
    chunk = encode_chunk(kv, level="high", rope=rope_of(kv))
    assert chunk.profile_hash == bytes(32)
    assert set(chunk.arrays) == {
        *("scales", "codes", "supports", "frequencies", "table_ids", "steps", "means"),
        *("rope_frequencies", "rope_shapes", "rope_of_plane"),
    }


def test_a_chunk_with_a_profile_carries_its_sinks(make_cache, profile_of):
    profile = profile_of("gqa", torch.float32, "plain")
    chunk = encode_chunk(make_cache("gqa", 60), profile=profile)
    assert set(chunk.arrays) == {"scales", "codes"}
    assert chunk.level == profile.default_level


def test_damaged_blocks_are_refused(make_cache):
    chunk = encode_chunk(make_cache("windowed", 30), level="high")
    for blocks in (chunk.blocks[:1], chunk.blocks[::-1], chunk.blocks * 2):
        with pytest.raises(BitstreamError):
            decode_chunk(replace(chunk, blocks=blocks))
    extra = replace(chunk.blocks[0], escapes=np.array([5], dtype=np.int8))
    with pytest.raises(BitstreamError, match="escapes"):
        decode_chunk(replace(chunk, blocks=(extra, chunk.blocks[1])))
