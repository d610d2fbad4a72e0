"""Codec `adaptive`: error bounds, finer dimensions, when predicting pays, what is refused."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.chunk import decode
from cachegen.bitstream.format import pack, unpack
from cachegen.codec.adaptive.coding import coefficient_steps, fineness
from cachegen.codec.adaptive.stored_weights import WIDEST
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.codecs import EncodeRequest, codec_of
from cachegen.codec.levels import UNCALIBRATED_LADDER, EncodingLevel
from cachegen.codec.matrix import SINKS
from cachegen.codec.rope import Rope, RopeMap, rotate
from cachegen.codec.symbols import DEAD_ZONE
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache


def correlated(num_tokens, *, layers=3, heads=2, dim=24, rank=8, start=0, dtype=torch.float32):
    """Keys and values of a layer that are mixtures of few numbers, and a little noise."""
    generator = torch.Generator().manual_seed(num_tokens)
    pairs = []
    for _ in range(layers):
        hidden = torch.randn((num_tokens, rank), generator=generator)
        mixed = hidden @ torch.randn((rank, 2 * heads * dim), generator=generator)
        mixed = mixed + 0.3 * torch.randn(mixed.shape, generator=generator)
        rows = mixed.view(num_tokens, 2, heads, dim).permute(1, 2, 0, 3).to(dtype).contiguous()
        pairs.append((rows[0], rows[1]))
    return KVCache.from_layers(pairs, start=start)


def plainly(kv, step, rope=None):
    rope = rope or RopeMap.none(2 * kv.num_layers)
    return codec_of("plain").encode(
        kv, EncodeRequest(EncodingLevel("x", "plain", step), None, rope, threads=1)
    )


def worst_errors(kv, decoded, rope):
    """Per coefficient the largest error of un-rotated rows, sinks left out."""
    found = []
    for index, planes in enumerate(zip(kv.planes(), decoded.planes(), strict=True)):
        rows = [plane.transpose(0, 1).float().contiguous() for plane in planes]
        if rope.rope(index) is not None:
            for one in rows:
                positions = torch.arange(kv.stop - len(one), kv.stop)
                rotate(one, rope.rope(index), positions, inverse=True)
        skipped = SINKS if len(rows[0]) == kv.num_tokens and kv.start == 0 else 0
        found.append((rows[0] - rows[1])[skipped:].abs().amax(dim=0).flatten())
    return torch.cat(found).numpy()


@pytest.mark.parametrize("level", [level.name for level in UNCALIBRATED_LADDER])
@pytest.mark.parametrize("shapes", ("gqa", "mqa", "mla", "latent", "mixed", "windowed"))
def test_error_is_within_the_step_and_its_dead_zone(make_cache, rope_of, level, shapes):
    kv = make_cache(shapes, 150)
    rope = rope_of(kv)
    chunk = encode_chunk(kv, level=level, rope=rope)
    assert chunk.codec == "adaptive"
    steps = coefficient_steps(chunk.arrays["steps"], chunk.arrays["fineness"], kv.geometry)
    errors = worst_errors(kv, decode_chunk(chunk), rope)
    assert (errors <= (1 - DEAD_ZONE) * steps * 1.001 + 1e-5).all()
    assert (errors > 0.3 * steps).mean() > 0.7


@pytest.mark.parametrize("start", (0, 2, 1000))
def test_predicting_keeps_the_error_and_saves_bytes(start):
    kv = correlated(500, start=start)
    chunk = encode_chunk(kv, level="high")
    assert "group" in chunk.arrays
    steps = coefficient_steps(chunk.arrays["steps"], chunk.arrays["fineness"], kv.geometry)
    own = worst_errors(kv.slice(4, 500), decode_chunk(chunk).slice(4, 500), RopeMap.none(6))
    assert (own <= (1 - DEAD_ZONE) * steps * 1.001 + 1e-5).all()
    alone = plainly(kv, UNCALIBRATED_LADDER[3].step / 2)
    assert len(pack(chunk)) < 0.8 * len(pack(alone))


def test_noise_is_not_predicted(make_cache):
    chunk = encode_chunk(make_cache("gqa", 400), level="high")
    assert "group" not in chunk.arrays
    assert len(chunk.blocks) == 1


@pytest.mark.parametrize("num_tokens", (0, 1, 4, 5, 40, 70))
def test_short_chunks(num_tokens):
    kv = correlated(num_tokens)
    decoded = decode(pack(encode_chunk(kv, level="highest")))
    assert decoded.num_tokens == num_tokens
    for left, right in zip(kv.planes(), decoded.planes(), strict=True):
        torch.testing.assert_close(left, right, atol=0.6, rtol=0)


def test_slow_dimensions_of_keys_are_finer():
    kv = correlated(100, layers=1, heads=1, dim=6)
    rope = RopeMap((Rope((1.0, 2.0**-10)),), (0, None))
    found = fineness(kv.geometry, rope)
    assert found[0] == found[2] == 0
    assert found[1] == found[3] > 0
    assert fineness(kv.geometry, RopeMap((Rope((1.0, 2.0**-10), True),), (0, None)))[
        :4
    ].tolist() == [
        *(0, 0),
        *(found[1],) * 2,
    ]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_dtypes(dtype):
    kv = correlated(300, dtype=dtype)
    decoded = decode(pack(encode_chunk(kv, level="highest")))
    assert decoded.dtype == dtype
    for left, right in zip(kv.planes(), decoded.planes(), strict=True):
        assert (left.float() - right.float()).abs().max() < 0.6


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_what_is_not_finite_is_kept_without_loss(value):
    kv = correlated(200)
    kv.keys[1][0, 100, 3] = value
    chunk = encode_chunk(kv, level="high")
    assert chunk.codec == "lossless"


@pytest.mark.parametrize("outlier", (1e3, 1e6, 1e9))
def test_outliers_and_constant_planes(outlier):
    kv = correlated(300)
    kv.keys[0][1, 200, 5] = outlier
    kv.values[1].fill_(3.25)
    chunk = encode_chunk(kv, level="high")
    decoded = decode_chunk(chunk)
    assert (decoded.values[1][:, SINKS:] == 3.25).all()
    assert len(pack(chunk)) < 1.1 * len(pack(plainly(kv, UNCALIBRATED_LADDER[3].step / 2)))
    if chunk.codec == "adaptive":
        assert decoded.keys[0][1, 200, 5] == pytest.approx(outlier, rel=0.05)


@given(
    num_tokens=st.integers(0, 130),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    dim=st.integers(1, 20),
    rank=st.integers(1, 5),
    start=st.integers(0, 5),
    level=st.sampled_from([level.name for level in UNCALIBRATED_LADDER]),
)
@settings(max_examples=40, deadline=None)
def test_any_geometry_comes_back(num_tokens, layers, heads, dim, rank, start, level):
    kv = correlated(num_tokens, layers=layers, heads=heads, dim=dim, rank=rank, start=start)
    chunk = unpack(pack(encode_chunk(kv, level=level)))
    decoded = decode_chunk(chunk)
    skipped = max(0, min(SINKS - start, num_tokens))
    for index, (left, right) in enumerate(zip(kv.planes(), decoded.planes(), strict=True)):
        bound = (1 - DEAD_ZONE) * chunk.arrays["steps"][index] * 1.01 + 1e-4
        assert ((left - right)[:, skipped:].abs() <= bound).all()


def predicted_chunk():
    chunk = encode_chunk(correlated(200, layers=1), level="high")
    assert "group" in chunk.arrays
    return chunk


@pytest.mark.parametrize(
    ("name", "value", "said"),
    (
        ("group", np.array([0], np.uint32), "groups of 1 to"),
        ("group", np.array([WIDEST + 1], np.uint32), "groups of 1 to"),
        ("group", np.array([5], np.uint32), "expected"),
        ("weight_step", np.array([np.nan], np.float32), "weight_step"),
        ("weight_step", np.array([0], np.float32), "weight_step"),
        ("weight_step", np.array([17], np.float32), "weight_step"),
        ("spreads", np.zeros(3, np.uint8), "spreads"),
        ("fineness", np.zeros(3, np.uint8), "fineness"),
    ),
)
def test_damaged_arrays_are_refused(name, value, said):
    chunk = predicted_chunk()
    with pytest.raises(BitstreamError, match=said):
        decode_chunk(replace(chunk, arrays=chunk.arrays | {name: value}))


@pytest.mark.parametrize("name", ("weight_step", "spreads", "fineness", "group", "means"))
def test_missing_arrays_are_refused(name):
    chunk = predicted_chunk()
    arrays = {other: array for other, array in chunk.arrays.items() if other != name}
    with pytest.raises(BitstreamError):
        decode_chunk(replace(chunk, arrays=arrays))


def test_damaged_blocks_are_refused():
    chunk = predicted_chunk()
    for blocks in (chunk.blocks[:1], chunk.blocks[::-1], chunk.blocks * 2):
        with pytest.raises(BitstreamError):
            decode_chunk(replace(chunk, blocks=blocks))
    extra = replace(chunk.blocks[1], escapes=np.array([5], dtype=np.int8))
    with pytest.raises(BitstreamError, match="escapes"):
        decode_chunk(replace(chunk, blocks=(chunk.blocks[0], extra)))


def test_extreme_weights_give_numbers_or_an_error():
    chunk = predicted_chunk()
    extremes = {
        "spreads": np.tile(np.array([0, 255], np.uint8), 48),
        "weight_step": np.array([16], np.float32),
    }
    decoded = decode_chunk(replace(chunk, arrays=chunk.arrays | extremes))
    assert not any(plane.isnan().any() for plane in decoded.planes())


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_random_arrays_do_not_crash(data):
    chunk = predicted_chunk()
    name = data.draw(st.sampled_from(["spreads", "fineness", "table_ids", "group", "weight_step"]))
    array = np.array(chunk.arrays[name])
    raw = array.view(np.uint8).reshape(-1)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BitstreamError):
        decode_chunk(replace(chunk, arrays=chunk.arrays | {name: array}))
