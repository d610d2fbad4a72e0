"""The default level keeps its promise on long contexts, or the profile says that it does not."""

import math
from dataclasses import replace

import pytest
import torch

from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.long_contexts import LongTexts, held, in_chunks
from cachegen.codec.calibration.placement import Ladder
from cachegen.codec.levels import PROMISED_KL, EncodingLevel, LongContexts, Quality
from cachegen.codec.profile import read_profile

SHORT, LONG = 100, 700


def quality(kl):
    return {"text": Quality(kl, 0.0, 1.0, 10)}


def level_at(name, step, kl):
    return EncodingLevel(name, "plain", step, quality(kl)["text"], quality(kl))


LADDER = Ladder(
    (level_at("low", 0.4, 0.03), level_at("high", 0.1, 0.0025), level_at("highest", 0.05, 0.0006)),
    ("level lowest: left out",),
)


def held_by(long_kl, *, short_kl=lambda step: 0.25 * step**2, default="high", told=None, **options):
    """The ladder and the steps that were measured on long and on short contexts.

    A round trip at a step is the step itself here, so that what is measured depends on it alone.
    """
    steps = {"long": [], "short": []}

    def measuring(length, kl_of):
        def evaluate(step):
            steps[length].append(step)
            return quality(kl_of(step))

        return evaluate

    found = held(
        LADDER,
        default,
        **{
            "texts": LongTexts(LONG, measuring("long", long_kl)),
            "roundtrip": lambda step: step,
            "evaluate": measuring("short", short_kl),
            "checkpoint": Checkpoint(None),
            "progress": (told if told is not None else []).append,
            **options,
        },
    )
    return found, steps


def test_a_level_that_holds_stays_and_says_so():
    found, steps = held_by(lambda step: 0.28 * step**2)
    kept = quality(0.28 * 0.1**2)
    expected = replace(LADDER.levels[1], long=LongContexts(LONG, kept["text"], kept))
    assert found == replace(LADDER, levels=(LADDER.levels[0], expected, LADDER.levels[2]))
    assert steps == {"long": [0.1], "short": []}


@pytest.mark.parametrize("grown", (1.25, 1.6, 2.8))
def test_a_level_that_costs_more_on_long_contexts_is_placed_finer(grown):
    found, steps = held_by(lambda step: 0.25 * grown * step**2)
    level = found.levels[1]
    assert level.step < 0.1 and level.long.quality.kl <= PROMISED_KL
    assert level.long.quality.kl >= 0.85 * PROMISED_KL
    assert level.quality.kl == pytest.approx(0.25 * level.step**2)
    assert level.domains == {"text": level.quality}
    assert steps["short"] == [level.step] and len(steps["long"]) == 2
    assert [own.name for own in found.levels] == ["low", "high", "highest"]
    assert (found.levels[0], found.levels[2]) == (LADDER.levels[0], LADDER.levels[2])
    assert found.out_of_reach == LADDER.out_of_reach


@pytest.mark.parametrize(
    ("long_kl", "is_known"),
    ((lambda step: 0.02, True), (lambda step: 5.0 * step, True), (lambda step: math.inf, False)),
    ids=["flat", "far beyond", "not finite"],
)
def test_a_level_that_holds_at_no_step_is_said_and_stays(long_kl, is_known):
    told = []
    found, steps = held_by(long_kl, told=told)
    level = found.levels[1]
    assert (level.step, level.quality) == (0.1, LADDER.levels[1].quality)
    assert level.long == (
        LongContexts(LONG, quality(long_kl(0.1))["text"], quality(long_kl(0.1)))
        if is_known
        else None
    )
    (said,) = found.out_of_reach[1:]
    assert "level high: on contexts of 700 tokens its KL is" in said and "0.003" in said
    assert said in [status.message for status in told]
    assert not steps["short"] and all(step > 0.05 for step in steps["long"])


@pytest.mark.parametrize("default", ("adaptive", "lossless"))
def test_a_default_that_is_none_of_the_levels_is_not_measured(default):
    assert held_by(lambda step: 1 / 0, default=default)[0] == LADDER


def test_nothing_is_measured_without_long_texts():
    assert held_by(lambda step: 1 / 0, texts=None)[0] == LADDER


def test_a_run_that_was_cut_off_does_not_measure_again(tmp_path):
    first, _ = held_by(lambda step: 0.4 * step**2, checkpoint=Checkpoint(tmp_path, b"x"))
    again, steps = held_by(lambda step: 1 / 0, checkpoint=Checkpoint(tmp_path, b"x"))
    assert again == first and steps == {"long": [], "short": []}


def test_long_contexts_are_coded_in_chunks(make_cache):
    kv, seen = make_cache("gqa", 250, torch.float32), []

    def roundtrip(part, tokens):
        seen.append((part.start, part.stop, list(tokens)))
        return part

    coded = in_chunks(roundtrip, SHORT)(kv, list(range(250)))
    assert seen == [(a, b, list(range(a, b))) for a, b in ((0, 100), (100, 200), (200, 250))]
    assert (coded.start, coded.stop) == (0, 250)
    for before, after in zip(kv.planes(), coded.planes(), strict=True):
        assert torch.equal(before, after)


def test_a_profile_keeps_what_was_measured_on_long_contexts(profile_of):
    made = profile_of("gqa", torch.float32, "plain")
    found = quality(0.0021)
    long = LongContexts(8192, found["text"], found)
    levels = (*made.levels[:-1], replace(made.levels[-1], long=long))
    kept = read_profile(replace(made, levels=levels).file_bytes)
    assert kept.levels[-1].long == long and kept.levels[0].long is None
    assert b"long" not in made.file_bytes
