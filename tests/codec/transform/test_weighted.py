"""Chunks of transforms whose tokens weigh differently."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.chunk import pack, unpack
from cachegen.codec.calibration.calibrate import calibrate
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.profile import read_profile
from cachegen.codec.transform.analysis import analyse, analyse_rows, tail_energies
from cachegen.codec.transform.basis import LayerGroup
from cachegen.codec.transform.importance import NUM_CLASSES, NUM_POSITION_TERMS, Importance
from cachegen.codec.transform.quantisation import Quantiser, row_classes
from cachegen.codec.transform.stored_rows import rounded
from cachegen.codec.transform.stored_transform import transform_from_arrays, transform_to_arrays
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, PlaneShape

LEVELS = ("lowest", "high")


@pytest.fixture(scope="module")
def profile(make_cache, distortion, rope_of, sample_of):
    samples = [sample_of(make_cache("gqa", 600, torch.bfloat16, seed=seed)) for seed in (1, 2)]
    made = calibrate(
        lambda after=None: samples,
        evaluate=distortion(make_cache("gqa", 60, torch.bfloat16, seed=3)),
        fingerprint=bytes(32),
        rope=rope_of(samples[0].kv),
    )
    return read_profile(made.file_bytes)


def weighing(profile, slope):
    """The same with tokens that weigh more the nearer the end they are."""
    position = np.zeros(NUM_POSITION_TERMS, dtype=np.float32)
    position[:2] = 4 * slope, -slope
    groups = tuple(np.zeros(1, dtype=np.float32) for _ in profile.transform.groups)
    made = replace(profile.transform, importance=Importance(position, groups))
    return read_profile(replace(profile, transform=made).file_bytes)


def error_by_token(kv, other):
    pairs = zip(kv.planes(), other.planes(), strict=True)
    return sum((a.float() - b.float()).square().sum(dim=(0, 2)) for a, b in pairs)


def test_profiles_of_version_2_come_back(profile):
    assert b"cachegen-profile-2" in profile.file_bytes
    assert read_profile(profile.file_bytes).hash == profile.hash
    assert all(len(active) == NUM_CLASSES for active in profile.num_active)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("start", (0, 2, 300))
@pytest.mark.parametrize("num_tokens", (1, 3, 5, 90))
def test_what_is_coded_is_decoded(profile, make_cache, tokens_of, level, start, num_tokens):
    kv = replace(make_cache("gqa", num_tokens, torch.bfloat16, seed=7), start=start)
    options = {"profile": profile, "tokens": tokens_of(kv)}
    chunk = encode_chunk(kv, level=level, **options)
    found = decode_chunk(unpack(pack(chunk)), **options)
    assert (found.start, found.num_tokens) == (start, num_tokens)
    if chunk.codec == "transform":
        assert len(chunk.arrays["multipliers"]) == num_tokens - min(max(4 - start, 0), num_tokens)


@pytest.mark.parametrize("slope", (1.0, 3.0))
def test_heavy_tokens_are_nearer(profile, make_cache, tokens_of, slope):
    kv = make_cache("gqa", 300, torch.bfloat16, seed=5)
    weighted = weighing(profile, slope)
    options = {"profile": weighted, "tokens": tokens_of(kv)}
    chunk = encode_chunk(kv, level="lowest", **options)
    assert chunk.codec == "transform"
    multipliers = chunk.arrays["multipliers"]
    assert multipliers[-1] < multipliers[10]
    error = error_by_token(kv, decode_chunk(chunk, **options))
    assert error[-8:].mean() < 0.5 * error[10:100].mean()


@pytest.mark.parametrize(("shift", "rung"), [(0.5, 0), (1.0, 0)])
def test_a_cache_a_little_unlike_the_samples_gets_little_finer_steps(
    profile, make_cache, tokens_of, shift, rung
):
    kv = make_cache("gqa", 600, torch.bfloat16, seed=5)
    kv.values[0][:, 10:60] += shift
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile, level="lowest")
    assert chunk.arrays["rung"].tolist() == [rung]
    lost, bound = chunk.arrays["distortion"].tolist()
    assert 0.8 * bound < lost <= bound
    found = decode_chunk(chunk, tokens=tokens_of(kv), profile=profile)
    assert found.geometry == kv.geometry


def test_the_round_trip_is_what_decoding_gives(profile, make_cache, tokens_of):
    from cachegen.codec.transform import rung as transform

    kv = make_cache("gqa", 120, torch.bfloat16, seed=6)
    tokens = tokens_of(kv)
    chunk = encode_chunk(kv, tokens=tokens, profile=profile, level="high")
    rung = profile.rung(int(chunk.arrays["rung"][0]))
    decoded = decode_chunk(chunk, tokens=tokens, profile=profile)
    again = transform.roundtrip(kv, tokens, rung)
    assert all(map(torch.equal, decoded.planes(), again.planes()))


def test_readers_need_no_analysis(profile, make_cache, tokens_of):
    """What is stored beside contexts decodes alike, has the same name, and encodes nothing."""
    kv = make_cache("gqa", 200, torch.bfloat16, seed=4)
    reader = read_profile(profile.reader_bytes)
    assert len(profile.reader_bytes) < 0.7 * len(profile.file_bytes)
    assert reader.hash == profile.hash and reader.reader_bytes == reader.file_bytes
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile)
    assert chunk.codec == "transform"
    decoded = [decode_chunk(chunk, tokens=tokens_of(kv), profile=p) for p in (profile, reader)]
    assert all(map(torch.equal, decoded[0].planes(), decoded[1].planes()))
    with pytest.raises(ValueError, match="is only what readers need"):
        encode_chunk(kv, tokens=tokens_of(kv), profile=reader)
    rebuilt = replace(reader, notes=reader.notes).file_bytes
    assert rebuilt == reader.file_bytes


def wide(profile):
    """A group of 300 columns in which the coefficients behind 256 are bytes."""
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(300, 300, generator=generator)).Q.half().numpy()
    rows = np.concatenate([turned[:128], rounded(turned[128:])])
    group = LayerGroup(
        planes=(0, 1),
        means=np.zeros(300, np.float32),
        prediction=np.zeros((profile.transform.num_features, 300), np.float16),
        synthesis=rows,
        analysis=rows.T.copy(),
        variances=np.ones(300, np.float32),
    )
    importance = Importance(np.zeros(NUM_POSITION_TERMS, np.float32), (np.zeros(1, np.float32),))
    return replace(profile.transform, groups=(group,), importance=importance)


def test_what_lies_behind_the_precise_coefficients_is_stored_in_bytes(profile):
    transform = replace(wide(profile), ood_score=1.0)
    geometry = Geometry((PlaneShape(3, 50),) * 2, torch.bfloat16)
    arrays = transform_to_arrays(transform)
    assert arrays["synthesis.0"].shape == (128, 300)
    assert arrays["synthesis_bytes.0"].shape == arrays["analysis_bytes.0"].shape == (172, 300)
    found = transform_from_arrays(arrays, geometry).groups[0]
    assert np.array_equal(found.synthesis, transform.groups[0].synthesis)
    assert np.array_equal(found.analysis, transform.groups[0].analysis)
    even = transform_to_arrays(replace(transform, importance=None))
    assert even["synthesis.0"].shape == (300, 300) and "synthesis_bytes.0" not in even


def test_large_coefficients_are_not_heard_in_those_of_eight_bits(profile):
    transform = wide(profile)
    group = transform.groups[0]
    coefficients = torch.zeros(5, 300)
    coefficients[:, 7] = 1000.0
    rows = coefficients @ torch.from_numpy(group.synthesis).float()
    heard = (rows @ torch.from_numpy(group.analysis).float())[:, 128:].abs().max()
    analysed = analyse_rows(transform, [rows], positions=np.arange(5), last=4)
    found = analysed.coefficients(0, counts=np.full(5, 300))
    assert heard > 1 > 0.05 > found[:, 128:].abs().max()
    assert (found[:, 7] - 1000).abs().max() < 2
    (mixtures,) = Quantiser.of(transform, step=1.0, num_active=((128,),) * 6).tails
    beyond = tail_energies(analysed, 0, mixtures, [128] * 6 + [300])
    assert beyond.max() < 0.05


@pytest.mark.parametrize("name", ("synthesis", "analysis"))
def test_bytes_that_do_not_fit_are_refused(profile, name):
    geometry = Geometry((PlaneShape(3, 50),) * 2, torch.bfloat16)
    arrays = transform_to_arrays(replace(wide(profile), ood_score=1.0))
    for changed, said in (
        ({f"{name}_exponents.0": np.full(300, 100, np.int8)}, "exponents"),
        ({f"{name}_exponents.0": np.zeros(299, np.int8)}, f"{name}_exponents"),
        ({f"{name}_bytes.0": np.zeros((172, 299), np.int8)}, f"{name}_bytes"),
        ({f"{name}_bytes.0": np.zeros((173, 300), np.int8)}, "coefficients|variances|analysis"),
    ):
        with pytest.raises(BitstreamError, match=said):
            transform_from_arrays(arrays | changed, geometry)
    del arrays[f"{name}_exponents.0"]
    with pytest.raises(BitstreamError, match=f"{name}_exponents"):
        transform_from_arrays(arrays, geometry)


def test_fewer_columns_of_analysis_than_coefficients_are_refused(profile):
    group = profile.transform.groups[0]
    cut = replace(group, analysis=group.analysis[:, :3])
    made = replace(profile.transform, groups=(cut, *profile.transform.groups[1:]))
    with pytest.raises(BitstreamError, match="fewer columns than coefficients"):
        read_profile(replace(profile, transform=made).file_bytes)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_multipliers_that_were_changed_are_refused_or_decode(profile, make_cache, tokens_of, data):
    kv = make_cache("gqa", 60, torch.bfloat16, seed=8)
    options = {"profile": profile, "tokens": tokens_of(kv)}
    chunk = encode_chunk(kv, level="high", **options)
    assert chunk.codec == "transform"
    changed = chunk.arrays["multipliers"].copy()
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] = data.draw(st.integers(0, 255))
    bad = replace(chunk, arrays=chunk.arrays | {"multipliers": changed})
    try:
        decode_chunk(bad, **options)
    except BitstreamError:
        return
    assert 1 <= changed[place] <= 63


@pytest.mark.parametrize("count", (0, 1, 55, 57))
def test_another_number_of_multipliers_is_refused(profile, make_cache, tokens_of, count):
    kv = make_cache("gqa", 60, torch.bfloat16, seed=8)
    options = {"profile": profile, "tokens": tokens_of(kv)}
    chunk = encode_chunk(kv, level="high", **options)
    bad = replace(chunk, arrays=chunk.arrays | {"multipliers": np.ones(count, np.uint8)})
    with pytest.raises(BitstreamError, match="multipliers"):
        decode_chunk(bad, **options)
    del chunk.arrays["multipliers"]
    with pytest.raises(BitstreamError, match="multipliers: the array is missing"):
        decode_chunk(chunk, **options)


@pytest.mark.parametrize("scale", (1e3, 1e4))
def test_rows_that_could_overflow_the_sums_use_no_rung(profile, make_cache, tokens_of, scale):
    """Far beyond what was learned: an honest bound leaves it to another codec."""
    kv = make_cache("gqa", 60, torch.bfloat16, seed=9, scale=scale)
    analysed = analyse(kv, tokens_of(kv), profile.transform, profile.rope)
    rung = profile.rung(len(profile.levels) - 1)
    assert rung.quantiser.quantise(analysed).distortion == np.inf
    chunk = encode_chunk(kv, tokens=tokens_of(kv), profile=profile)
    assert chunk.codec != "transform"


def test_finer_steps_lose_less(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 200, torch.bfloat16, seed=10)
    analysed = analyse(kv, tokens_of(kv), profile.transform, profile.rope)
    every = tuple(tuple(len(g.variances) for g in profile.transform.groups) for _ in range(6))
    steps = [profile.levels[0].step * 2.0**-power for power in range(8)]
    lost = [
        Quantiser.of(profile.transform, step=step, num_active=every).quantise(analysed).distortion
        for step in steps
    ]
    assert lost == sorted(lost, reverse=True)


def test_small_classes_join_the_finer_one(profile, make_cache, tokens_of):
    kv = make_cache("gqa", 100, torch.bfloat16, seed=11)
    analysed = analyse(kv, tokens_of(kv), profile.transform, profile.rope)
    rung = profile.rung(0)
    found = rung.quantiser.quantise(analysed)
    finest = found.classes[0].index
    assert all(len(one.rows) >= 16 for one in found.classes if one.index > finest)
    rows = np.sort(np.concatenate([one.rows for one in found.classes]))
    assert rows.tolist() == list(range(analysed.num_rows))


def test_all_tokens_are_one_class_without_weights():
    (one,) = row_classes(None, 5, fraction=32)
    assert one.rows.tolist() == list(range(5)) and set(one.multipliers.tolist()) == {32}
