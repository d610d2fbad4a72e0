import math
from dataclasses import replace

import pytest
import torch

from cachegen.codec.calibration.calibrate import (
    PHASES,
    PROMISED_KL,
    TARGET_KL,
    calibrate,
    default_level,
)
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.levels import LADDER, EncodingLevel, Quality
from cachegen.codec.profile import read_profile
from cachegen.codec.rope import RopeMap
from cachegen.contexts.chunking import ladder_stored

FINGERPRINT = bytes(range(32))


@pytest.fixture
def run(make_cache, distortion, rope_of, sample_of):
    """Calibrate on two caches of a geometry, judged on a third."""

    def calibrated(shapes="mqa", dtype=torch.float32, **options):
        num_tokens = 1500 if options.get("preset") == "transform" else 100
        made = [sample_of(make_cache(shapes, num_tokens, dtype, seed=seed)) for seed in (1, 2)]
        samples = options.pop("samples", made)
        arguments = {
            "evaluate": distortion(make_cache(shapes, 60, dtype, seed=3)),
            "fingerprint": FINGERPRINT,
            "rope": rope_of(made[0].kv),
            "preset": "plain",
        }
        give = samples if callable(samples) else lambda: samples
        return calibrate(give, **(arguments | options))

    return calibrated


def never(roundtrip):
    raise AssertionError("nothing is to be measured")


@pytest.mark.parametrize("shapes", ("mqa", "mixed", "windowed", "latent"))
def test_levels_meet_their_targets(run, shapes):
    profile = run(shapes)
    assert [level.name for level in profile.levels] == list(LADDER)
    steps = [level.step for level in profile.levels]
    assert steps == sorted(set(steps), reverse=True)
    for level, target in zip(profile.levels, TARGET_KL, strict=True):
        least = 0.8 if target <= PROMISED_KL else 0.75
        assert least * target <= level.quality.kl <= target
    assert profile.default_level == "high"
    assert profile.codec == "plain"
    assert profile.fingerprint == FINGERPRINT


@pytest.mark.parametrize("preset", ("plain", "paper", "transform"))
def test_the_quality_recorded_is_that_of_coding(run, make_cache, distortion, preset):
    profile = run(preset=preset)
    for level in profile.levels:

        def roundtrip(kv, tokens, name=level.name):
            chunk = encode_chunk(kv, tokens=tokens, profile=profile, level=name)
            assert chunk.codec == preset
            return decode_chunk(chunk, tokens=tokens, profile=profile)

        evaluate = distortion(make_cache("mqa", 60, seed=3))
        assert evaluate(roundtrip) == level.domains


def test_better_levels_are_larger(run, make_cache):
    profile = run("gqa")
    kv = make_cache("gqa", 200, seed=8)
    sizes = [
        sum(len(block.words) for block in encode_chunk(kv, profile=profile, level=name).blocks)
        for name in LADDER
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("preset", ("plain", "paper", "transform"))
def test_the_same_samples_make_the_same_bytes(run, preset):
    one, other = (run("gqa", torch.bfloat16, preset=preset) for _ in range(2))
    assert one.file_bytes == other.file_bytes


def test_preset_paper(run):
    profile = run("gqa", preset="paper")
    assert profile.codec == "paper"
    assert profile.means is None
    assert profile.rope == RopeMap.none(6)
    assert profile.scales.tolist() == [0.5, 0.5, 1, 1, 1.5, 1.5]
    kls = [level.quality.kl for level in profile.levels]
    assert kls == sorted(set(kls), reverse=True)
    assert kls[0] <= TARGET_KL[0]


def test_quality_that_cannot_be_reached_ends_with_the_best_found(run):
    trials = []

    def floor(roundtrip):
        trials.append(roundtrip)
        return {"text": Quality(0.02 + 1e-9 * len(trials), 0.0, 1.0, 10)}

    profile = run(evaluate=floor)
    assert len(trials) < 60
    assert all(level.quality.kl < 0.03 for level in profile.levels)
    assert profile.default_level == "lossless"
    assert "NO LEVEL KEEPS THE PROMISE" in profile.notes["out_of_reach"]
    assert read_profile(profile.file_bytes).default_level == "lossless"
    steps = [level.step for level in profile.levels]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("largest", "default"), [(0.4, "adaptive"), (0.05, "packed")])
def test_where_no_level_keeps_the_promise_the_next_codec_does(run, make_cache, largest, default):
    kv = make_cache("mqa", 60)

    def only_fine(roundtrip):
        pairs = zip(kv.planes(), roundtrip(kv, range(60)).planes(), strict=True)
        error = max(float((one - other).abs().max()) for one, other in pairs)
        return {"text": Quality(0.001 if 0 < error < largest else 0.02, 0.0, 1.0, 10)}

    told = []
    profile = run(evaluate=only_fine, target_kl=(0.9, 0.8, 0.7, 0.6, 0.5), progress=told.append)
    assert profile.default_level == default
    assert ladder_stored(profile)[-1] == default
    chunk = encode_chunk(kv, tokens=range(60), profile=read_profile(profile.file_bytes))
    assert chunk.level == chunk.codec == default and decode_chunk(chunk).num_tokens == 60
    assert any(f"the default level is {default}" in status.message for status in told)


def test_levels_that_nearly_coincide_are_stored_once(run):
    profile = run(evaluate=lambda roundtrip: {"text": Quality(0.001, 0.0, 1.0, 10)})
    assert [level.name for level in profile.levels] == ["lowest"]
    assert "left out, it would nearly coincide with lowest" in profile.notes["out_of_reach"]
    assert profile.level("high") == profile.levels[0]
    with pytest.raises(ValueError, match="one of the levels lowest; got 'best'"):
        profile.level("best")


def test_no_level_is_placed_below_the_noise_floor(run):
    profile = run(noise_floor=0.02)
    assert profile.noise_floor == 0.02
    assert read_profile(profile.file_bytes).noise_floor == 0.02
    assert min(level.quality.kl for level in profile.levels) >= 0.8 * 0.02


def test_quality_that_never_suffers_ends(run):
    profile = run(evaluate=lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    assert profile.default_level == "lowest"
    assert len({level.step for level in profile.levels}) == 1


@pytest.mark.parametrize("preset", ("plain", "paper", "transform"))
@pytest.mark.parametrize("kl", (0.0, "rising", 0.02, 50.0))
def test_quality_that_does_not_depend_on_the_step(run, make_cache, tokens_of, preset, kl):
    """The profile is one that can be read and coded with, and says what was out of reach.

    What hardly rises leads to the coarsest step there is.
    """
    rising = iter(range(1000))

    def evaluate(roundtrip):
        found = 1e-12 * next(rising) if kl == "rising" else kl
        return {"text": Quality(found, 0.0, 1.0, 10)}

    made = run(preset=preset, evaluate=evaluate)
    assert (made.levels[0].step == 1e6) == (kl == "rising")
    profile = read_profile(made.file_bytes)
    assert profile.hash == made.hash
    said = profile.notes["out_of_reach"].splitlines()
    assert sum(sentence.startswith("level ") for sentence in said) == 5
    kv = make_cache("mqa", 40, seed=5)
    for level in profile.levels:
        assert preset != "transform" or 1e-12 <= level.bound < 1e30
        options = {"profile": profile, "tokens": tokens_of(kv)}
        chunk = encode_chunk(kv, level=level.name, **options)
        assert decode_chunk(chunk, **options).num_tokens == 40


def test_caches_that_never_change_get_bounds_too(run, make_cache, sample_of):
    """Nothing is lost in them, and a bound of nothing would refuse every other cache."""
    still = make_cache("mqa", 60)
    for plane in still.planes():
        plane.fill_(0.5)
    profile = run(
        preset="transform",
        evaluate=lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)},
        samples=[sample_of(still)],
    )
    assert all(level.bound > 0 for level in read_profile(profile.file_bytes).levels)


@pytest.mark.parametrize(
    ("scale", "message"),
    ((1e17, "none that a profile can hold"), (1e30, "squares float32 can sum.*sample 1;")),
)
def test_extreme_numbers_are_refused_before_levels_are_placed(
    run, make_cache, sample_of, scale, message
):
    sample = sample_of(make_cache("mqa", 60, scale=scale))
    keys = tuple(scale * key for key in sample.gradient.keys)
    samples = [replace(sample, gradient=replace(sample.gradient, keys=keys))]
    with pytest.raises(ValueError, match=message):
        run(preset="transform", samples=samples, evaluate=never)


def test_samples_with_nan_are_refused_where_they_come_up(run, make_cache, sample_of):
    bad = make_cache("mqa", 60)
    bad.values[1][0, 0, 3] = float("inf")

    def samples():
        yield sample_of(make_cache("mqa", 60))
        yield sample_of(bad)
        raise AssertionError("asked for more")

    for preset in ("plain", "transform"):
        with pytest.raises(ValueError, match=r"finite keys and values.*NaN.*sample 2; .*float32"):
            run(preset=preset, samples=samples, evaluate=never)


def test_targets_of_ones_own(run):
    targets = (0.3, 0.2, 0.1, 0.05, 0.02)
    profile = run(target_kl=targets)
    for level, target in zip(profile.levels, targets, strict=True):
        assert 0.8 * target <= level.quality.kl <= target


def test_notes_and_progress(run):
    messages = []
    profile = run(notes={"text": "noise"}, num_samples=2, progress=messages.append)
    assert profile.notes == {"text": "noise"}
    assert str(messages[0]) == "statistics 0 of 2" and str(messages[-1]) == "tables 2 of 2"
    assert sum(status.message.startswith("level ") for status in messages) == 5
    assert {status.phase for status in messages} == set(PHASES["plain"])


def test_the_default_is_the_smallest_level_that_keeps_the_promise():
    def ladder(*kls):
        return tuple(
            EncodingLevel(name, "plain", 1.0, Quality(kl, 0.0, 1.0, 1))
            for name, kl in zip(LADDER, kls, strict=True)
        )

    assert default_level(ladder(1, 1, PROMISED_KL, 0.001, 0)) == "medium"
    assert default_level(ladder(1, 1, 1, 1, 1)) is None


@pytest.mark.parametrize(
    ("quality", "kept"),
    (
        (Quality(0.001, 0.004, 1.0, 1), True),
        (Quality(0.001, 0.006, 1.0, 1), False),
        (Quality(0.001, 0.0, 1.0, 1, exact_match=0.95, exact_match_uncompressed=0.955), True),
        (Quality(0.001, 0.0, 1.0, 1, exact_match=0.93, exact_match_uncompressed=0.955), False),
        (Quality(0.001, 0.0, 1.0, 1, exact_match=0.1, exact_match_uncompressed=0.5), True),
    ),
)
def test_the_promise_covers_perplexity_and_answers(quality, kept):
    levels = (
        EncodingLevel("low", "plain", 1.0, quality),
        EncodingLevel("high", "plain", 0.5, Quality(0.0, 0.0, 1.0, 1)),
    )
    assert default_level(levels) == ("low" if kept else "high")


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"preset": "best"}, "preset of transform, plain, paper"),
        ({"target_kl": (0.1, 0.01)}, "5 falling targets"),
        ({"target_kl": (0.1, 0.2, 0.03, 0.02, 0.01)}, "5 falling targets"),
        ({"target_kl": (0.1, 0.04, 0.03, 0.02, 0.0)}, "5 falling targets"),
        ({"fingerprint": b"short"}, "32 bytes"),
        ({"rope": RopeMap.none(2)}, "rotations of 4 planes"),
        ({"evaluate": lambda roundtrip: {"text": Quality(math.nan, 0.0, 1.0, 1)}}, "finite KL"),
    ),
)
def test_bad_arguments(run, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.mark.parametrize("preset", ("plain", "transform"))
def test_bad_samples(make_cache, distortion, sample_of, preset):
    kv = make_cache("mqa", 20)
    kv.keys[0][0, 9, 0] = float("nan")
    options = {
        "preset": preset,
        "evaluate": distortion(make_cache("mqa", 20)),
        "fingerprint": FINGERPRINT,
        "rope": RopeMap.none(4),
    }
    with pytest.raises(ValueError, match="NaN"):
        calibrate(lambda: [sample_of(kv)], **options)
    with pytest.raises(ValueError, match="at least one sample"):
        calibrate(list, **options)
