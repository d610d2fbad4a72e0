"""The search for steps ends, whatever is measured, with levels that a profile can hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.codec.calibration.calibrate import TARGET_KL, default_level
from cachegen.codec.calibration.checkpoint import Checkpoint
from cachegen.codec.calibration.placement import expected_step, place, search
from cachegen.codec.calibration.trials import Placed
from cachegen.codec.levels import LADDER, PROMISED_KL, Quality
from cachegen.codec.profile import StepLimits, read_profile, step_limits
from cachegen.codec.symbols import Unrepresentable

LIMITS = step_limits(None)
MOST_TRIALS = 25


def quality(kl):
    return {"text": Quality(kl, 0.0, 1.0, 10)}


def placed_by(kl_of, *, codec="plain", limits=LIMITS, told=None, noise_floor=0.0):
    steps = []

    def measure(step):
        steps.append(step)
        return quality(kl_of(step))

    found = place(
        measure,
        TARGET_KL,
        codec=codec,
        limits=limits,
        checkpoint=Checkpoint(None),
        progress=(told if told is not None else []).append,
        noise_floor=noise_floor,
    )
    return found, steps


def searched(kl_of, target, *, coarser=None, limits=LIMITS):
    steps = []

    def trial(step):
        steps.append(step)
        found = quality(kl_of(step))
        return Placed(step, found["text"], found)

    return search(trial, target, coarser=coarser, limits=limits), steps


def test_a_lawful_kl_is_met_closely_in_few_trials():
    found, steps = searched(lambda step: 3.0 * step**2, 0.01)
    assert 0.0075 <= found.quality.kl <= 0.01
    assert len(steps) <= 4


@pytest.mark.parametrize("codec", ("transform", "plain"))
@pytest.mark.parametrize(
    ("kl_of", "reached", "said"),
    (
        (lambda step: 0.0, [0.0] * 5, ["stays below"] * 5),
        (lambda step: 1e-12, [1e-12] * 5, ["stays below"] * 5),
        (lambda step: -1e-17, [-1e-17] * 5, ["stays below"] * 5),
        (lambda step: 5.0, [5.0] * 5, ["no step keeps"] * 5),
        (lambda step: 0.02, [0.02] * 5, ["stays below"] * 2 + ["no step keeps"] * 3),
        (lambda step: 1e-9 * step, None, ["stays below"] * 4),
        (lambda step: 0.02 + step**2, None, ["no step keeps"] * 3),
    ),
    ids=["zero", "tiny", "below zero", "always worse", "flat", "hardly any", "floor"],
)
def test_targets_out_of_reach_are_said_and_the_nearest_taken(
    profile_of, codec, kl_of, reached, said
):
    told = []
    found, steps = placed_by(kl_of, codec=codec, told=told)
    if reached:
        assert [level.quality.kl for level in found.levels] == reached[:1]
    assert len(steps) <= 2 * MOST_TRIALS
    missed = [one for one in found.out_of_reach if " at step " in one]
    assert len(missed) == len(said)
    assert all(part in one for one, part in zip(missed, said, strict=True))
    messages = [status.message for status in told]
    assert [one for one in messages if one in found.out_of_reach] == list(found.out_of_reach)
    left_out = {one.split(":")[0] for one in found.out_of_reach if "left out" in one}
    assert len(left_out) == len(LADDER) - len(found.levels)
    check_readable(profile_of, found.levels, codec)


def with_levels(made, levels):
    used = max(int(ids.max(initial=0)) for ids in made.table_ids[: len(levels)])
    return replace(
        made,
        levels=levels,
        default_level=default_level(levels) or "lossless",
        frequencies=made.frequencies[: used + 1],
        table_ids=made.table_ids[: len(levels)],
        num_active=made.num_active[: len(levels)],
    )


def check_readable(profile_of, levels, codec):
    """In the order of a ladder, and back from the bytes of a profile."""
    steps = [level.step for level in levels]
    kls = [level.quality.kl for level in levels]
    assert steps == sorted(steps, reverse=True) and kls == sorted(kls, reverse=True)
    made = profile_of("mqa", torch.float32, codec)
    profile = with_levels(made, levels)
    assert read_profile(profile.file_bytes).levels == levels


def test_levels_that_keep_the_promise_keep_it_in_perplexity_too():
    """Where perplexity loses more than KL tells, it decides; coarse levels promise nothing."""
    worse = 4.0

    def measure(step):
        return {"text": Quality(0.1 * step**2, worse * 0.1 * step**2, 1.0, 10)}

    ladder = place(
        measure,
        TARGET_KL,
        codec="plain",
        limits=LIMITS,
        checkpoint=Checkpoint(None),
        progress=lambda status: None,
    )
    levels = {level.name: level.quality for level in ladder.levels}
    assert levels["medium"].kl > 0.0075 and levels["medium"].rel_ppl > 0.03
    assert 0.003 < levels["high"].rel_ppl <= 0.005
    assert default_level(ladder.levels) == "high"


@pytest.mark.parametrize(
    ("floor", "most"), ((0.001, 0.0011), (0.0029, PROMISED_KL), (0.0035, 0.0036))
)
def test_targets_are_above_the_noise_and_within_the_promise_where_they_can(floor, most):
    found, _ = placed_by(lambda step: floor + 0.01 * step**4, noise_floor=floor)
    assert floor <= found.levels[-1].quality.kl <= most


def test_a_target_beyond_slow_improvements_is_still_found():
    """Ten guesses creep along a plateau; what lies below it is not given up."""

    def kl_of(step):
        return 0.0318 + 1e-6 * step if step > 5 else 0.0001 * step**2

    levels = placed_by(kl_of)[0].levels
    targets = dict(zip(LADDER, TARGET_KL, strict=True))
    for level in levels[1:]:
        assert 0.03 * targets[level.name] <= level.quality.kl <= targets[level.name]
    assert levels[0].quality.kl > 0.03


def test_nothing_is_tried_twice_and_hopeless_targets_not_at_all():
    steps = placed_by(lambda step: 0.2)[1]
    assert len(steps) == len(set(steps)) <= MOST_TRIALS


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_steps_without_a_finite_kl_count_as_too_coarse(bad):
    found, _ = placed_by(lambda step: 2.0 * step**2 if step < 0.05 else bad)
    assert found.levels[0].step < 0.05
    assert [level.name for level in found.levels][-2:] == ["high", "highest"]
    targets = dict(zip(LADDER, TARGET_KL, strict=True))
    assert all(level.quality.kl <= targets[level.name] for level in found.levels[1:])


def test_what_cannot_be_coded_at_a_step_does_not_end_the_search():
    def kl_of(step):
        if step < 0.01:
            raise Unrepresentable
        return 0.02 + step

    assert 0.01 <= placed_by(kl_of)[0].levels[-1].step < 0.3


@pytest.mark.parametrize("measure", ("kl", "rel_ppl", "answer_kl"))
def test_numbers_that_no_profile_can_hold_are_said(measure):
    found = {"text": replace(Quality(0.0, 0.0, 1.0, 1), **{measure: math.nan})}
    trials = []

    def trial(step):
        trials.append(step)
        return Placed(step, found["text"], found)

    with pytest.raises(ValueError, match=r"expected a finite KL.*wider dtype"):
        search(trial, 0.1, coarser=None, limits=LIMITS)
    assert len(trials) <= MOST_TRIALS


CURVES = st.sampled_from(("law", "flat", "noise", "stairs", "bowl", "falling"))


def curve(kind, scale, power, seed):
    rng = np.random.default_rng(seed)

    def kl_of(step):
        if kind == "law":
            return scale * step**power
        if kind == "flat":
            return scale
        if kind == "noise":
            return scale * float(rng.lognormal(sigma=2.0))
        if kind == "stairs":
            return scale * 10.0 ** round(power * math.log10(step))
        if kind == "bowl":
            return scale * (step**power + 0.01 / step)
        return scale / step

    def sometimes_bad(step):
        found = kl_of(step) if rng.random() < 0.9 or seed % 3 else math.nan
        return found if found < 1e300 else math.inf

    return sometimes_bad


@settings(max_examples=300, deadline=None)
@given(
    kind=CURVES,
    scale=st.floats(1e-12, 1e6),
    power=st.floats(0.1, 4.0),
    seed=st.integers(0, 1000),
    log_finest=st.floats(-12, 0),
    log_coarsest=st.floats(0, 6),
)
def test_every_search_ends_within_its_limits(kind, scale, power, seed, log_finest, log_coarsest):
    limits = StepLimits(10.0**log_finest, 10.0**log_coarsest)
    coarser = None
    kl_of = curve(kind, scale, power, seed)
    for target in TARGET_KL:
        try:
            found, steps = searched(kl_of, target, coarser=coarser, limits=limits)
        except ValueError as error:
            assert "finite KL" in str(error)
            return
        assert len(steps) <= MOST_TRIALS
        assert all(limits.finest <= step <= limits.coarsest for step in steps)
        assert math.isfinite(found.quality.kl)
        if coarser is not None:
            assert found.step <= coarser.step
            assert found.quality.kl <= max(coarser.quality.kl, target)
        coarser = found


@settings(max_examples=60, deadline=None)
@given(
    kind=CURVES,
    scale=st.floats(1e-12, 1e6),
    power=st.floats(0.1, 4.0),
    seed=st.integers(0, 1000),
    codec=st.sampled_from(("transform", "plain", "paper")),
)
def test_every_ladder_comes_back_from_its_bytes(profile_of, kind, scale, power, seed, codec):
    kl_of = curve(kind, scale, power, seed)
    made = profile_of("mqa", torch.float32, codec)
    try:
        found, _ = placed_by(kl_of, codec=codec, limits=step_limits(made.scales))
    except ValueError as error:
        assert "finite KL" in str(error)
        return
    profile = with_levels(made, found.levels)
    again = read_profile(profile.file_bytes)
    assert again.levels == found.levels and again.hash == profile.hash


@settings(max_examples=100, deadline=None)
@given(
    scales=st.lists(
        st.floats(1.0000000031710769e-30, 2.0**127, width=32), min_size=4, max_size=4
    ).map(lambda numbers: np.array(numbers, dtype=np.float32))
)
def test_a_reader_takes_steps_at_both_limits(profile_of, scales):
    made, limits = profile_of("mqa", torch.float32, "plain"), step_limits(scales)
    for step in (limits.finest, limits.coarsest):
        levels = tuple(replace(level, step=step) for level in made.levels)
        assert read_profile(replace(made, scales=scales, levels=levels).file_bytes)


def test_what_earlier_trials_say_is_tried_first():
    """A level between two trials is expected where the line between them has its target."""
    known = {step: quality(3.0 * step**1.5) for step in (0.1, 1.0)}
    for target in (0.5, 0.02, 9.0):
        assert 3.0 * expected_step(known, target) ** 1.5 == pytest.approx(target)
    assert expected_step({0.1: quality(0.1)}, 0.02) is None
    assert expected_step({0.1: quality(math.inf), 0.2: quality(0.0)}, 0.02) is None


def test_later_levels_take_few_trials():
    found, steps = placed_by(lambda step: 0.07 * step**1.2)
    assert [level.name for level in found.levels] == list(LADDER)
    assert len(steps) <= 9
