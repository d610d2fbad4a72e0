"""Preset `paper`, against its quantiser written again value by value."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.codec import paper
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.model import model_to_arrays
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, PlaneShape

f32 = np.float32


def scale_above(largest: float) -> float:
    """The least bfloat16 that is not below a float32."""
    (bits,) = struct.unpack("<I", struct.pack("<f", largest))
    return struct.unpack("<f", struct.pack("<I", (bits + 0xFFFF) >> 16 << 16))[0]


def rounded(x: float) -> int:
    """To nearest; halves away from zero."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def quantised_slowly(rows, bin_width):
    """Scales, anchors, deltas and the decoded rows of a plane's float32 rows (tokens, width)."""
    scales, anchors, deltas, decoded = [], [], [], []
    for token, values in enumerate(rows):
        scale = f32(scale_above(float(max(map(abs, values)))))
        unit = [v / scale if scale else f32(0) for v in values]
        if token % 10 == 0:
            anchors.append([rounded(float(u * f32(127))) for u in unit])
            reference = [f32(a) / f32(127) for a in anchors[-1]]
            found = reference
        else:
            steps = [
                rounded(float((u - r) / f32(bin_width)))
                for u, r in zip(unit, reference, strict=True)
            ]
            deltas.append(steps)
            found = [r + f32(d) * f32(bin_width) for r, d in zip(reference, steps, strict=True)]
        scales.append(scale)
        decoded.append([f * scale for f in found])
    return scales, anchors, deltas, decoded


@pytest.mark.parametrize("shapes", ("gqa", "mixed", "windowed"))
@pytest.mark.parametrize("tokens", (1, 9, 10, 11, 47))
def test_against_the_slow_one(make_cache, shapes, tokens):
    kv = make_cache(shapes, tokens, start=4, scale=5.0)
    model = paper.fit([kv], kv.geometry, 0.07, margin=0)
    decoded = paper.roundtrip(kv, model)
    for index, (plane, found) in enumerate(zip(kv.planes(), decoded.planes(), strict=True)):
        rows = plane.transpose(0, 1).flatten(1).numpy()
        scales, anchors, deltas, expected = quantised_slowly(rows, model.steps[index])
        own = paper._quantise_plane(torch.from_numpy(rows.copy()), float(model.steps[index]))
        assert own.scales.tolist() == scales
        assert own.anchors.tolist() == anchors
        assert own.deltas.tolist() == deltas
        got = found.transpose(0, 1).flatten(1).numpy()
        assert got.tolist() == np.array(expected, dtype=np.float32).tolist()


def test_bins_grow_by_thirds_of_the_layers():
    shape = PlaneShape(1, 2)
    for layers, expected in (
        (1, [0.5]),
        (3, [0.5, 1, 1.5]),
        (4, [0.5, 0.5, 1, 1.5]),
        (6, [0.5, 0.5, 1, 1, 1.5, 1.5]),
    ):
        bins = paper.bins(Geometry((shape, shape) * layers, torch.float32), 0.5)
        assert bins.tolist() == [b / 2 for b in expected for _ in range(2)]


def test_anchors_have_eight_bits_at_every_level(make_cache, profile_of):
    profile = profile_of("gqa", torch.float32, "paper")
    kv = make_cache("gqa", 41, seed=8)
    for level in ("lowest", "highest"):
        decoded = decode_chunk(encode_chunk(kv, profile=profile, level=level), profile=profile)
        for plane, found in zip(kv.planes(), decoded.planes(), strict=True):
            scale = plane.abs().amax(dim=(0, 2)) * 1.01
            error = (plane - found).abs().amax(dim=(0, 2)) / scale
            assert (error[::10] <= 0.5 / 127).all()
            assert (error[1::10] > 2 / 127).any() or level == "highest"


def test_error_of_deltas_is_half_a_bin(make_cache):
    kv = make_cache("gqa", 60)
    model = paper.fit([kv], kv.geometry, 0.1, margin=0)
    for index, (plane, found) in enumerate(
        zip(kv.planes(), paper.roundtrip(kv, model).planes(), strict=True)
    ):
        scale = plane.abs().amax(dim=(0, 2), keepdim=True) * 1.01
        assert ((plane - found).abs() <= scale * model.steps[index] * 0.501).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("shapes", ("gqa", "latent", "mixed", "windowed"))
def test_roundtrip_is_decode_after_encode(make_cache, frozen, assert_same_bits, dtype, shapes):
    for tokens in (0, 1, 10, 12, 45):
        kv = make_cache(shapes, tokens, dtype, start=3)
        model = paper.fit([kv], kv.geometry, 0.3, margin=0)
        blocks, arrays = paper.encode(kv, model, threads=1)
        own = arrays | model_to_arrays(model)
        chunk = replace(encode_chunk(kv, level="raw"), codec="paper", blocks=blocks, arrays=own)
        assert_same_bits(decode_chunk(frozen(chunk)), paper.roundtrip(kv, model))


def test_every_channel_has_two_tables(make_cache, profile_of):
    kv = make_cache("mqa", 60)
    model = paper.fit([kv], kv.geometry, 0.3, margin=0)
    width = kv.geometry.values_per_token
    assert model.table_ids.tolist() == list(range(2 * width))
    assert model.frequencies.shape == (2 * width, 256)
    profile = profile_of("mqa", torch.float32, "paper")
    assert len(profile.frequencies) == 5 * 2 * width
    assert len({int(i) for ids in profile.table_ids for i in ids}) == 5 * 2 * width


def test_values_that_no_bfloat16_is_above_are_unrepresentable(make_cache, profile_of):
    kv = make_cache("gqa", 20)
    kv.keys[1][0, 3, 3] = 3.4e38
    chunk = encode_chunk(kv, profile=profile_of("gqa", torch.float32, "paper"))
    assert chunk.codec == "lossless"


@pytest.mark.parametrize("bits", (0x7F80, 0xFFC0, 0xBF80))
def test_damaged_scales_are_refused(make_cache, profile_of, bits):
    profile = profile_of("gqa", torch.float32, "paper")
    chunk = encode_chunk(make_cache("gqa", 20), profile=profile)
    chunk.arrays["scales"][7] = bits
    with pytest.raises(BitstreamError, match="scales"):
        decode_chunk(chunk, profile=profile)


def test_damaged_blocks_are_refused(make_cache, profile_of):
    profile = profile_of("gqa", torch.float32, "paper")
    chunk = encode_chunk(make_cache("gqa", 25), profile=profile)
    for blocks in ((), chunk.blocks[:1], chunk.blocks[::-1]):
        with pytest.raises(BitstreamError, match=r"blocks|shape"):
            decode_chunk(replace(chunk, blocks=blocks), profile=profile)
