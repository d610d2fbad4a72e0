"""The arithmetic of what a calibration costs."""

from dataclasses import replace

import pytest
import torch

from cachegen.cli.calibration.costs import (
    TRIALS,
    Costs,
    Piece,
    Shape,
    Speeds,
    Work,
    costs_of,
    rough,
)
from cachegen.codec.calibration.sizing import plan_groups
from cachegen.kvcache import Geometry, PlaneShape

# SmolLM2-135M on two cores, as a whole run of it and its parts were measured; its features took
# 37 s with the model's head, of which 5 s are taken off: they are computed without it now.
SHAPE = Shape(
    body=106_203_456,
    head=28_311_552,
    attention=69_120,
    vocabulary=49_152,
    values=11_520,
    value_bytes=2,
    feature_columns=12_096,
)
SPEEDS = Speeds(
    own=179e9,
    twin=141e9,
    short=290e9,
    float32=139e9,
    float64=72e9,
    eigenvectors=7.1e9,
    copied=6e9,
)
PLAN = plan_groups(
    Geometry((PlaneShape(3, 64),) * 60, torch.bfloat16),
    (49_152, 1024),
    max_profile_mb=128,
)
WORK = Work(
    preset="transform",
    context_tokens=1536,
    read_tokens=128,
    num_samples=48,
    draws=1,
    windows=[[Piece(1536, 128)] * 8] * 3,
    tasks=[],
    coded=[Piece(1536, 128)] * 12,
    features=1024,
    asked_tokens=24_576,
    plan=PLAN,
)
RESIDENT = 1.3e9


def costs(work: Work = WORK, speeds: Speeds = SPEEDS, shape: Shape = SHAPE) -> Costs:
    return costs_of(shape, work, speeds, resident_bytes=RESIDENT)


@pytest.mark.parametrize(
    ("phase", "measured_s"),
    (("reference runs", 73), ("features", 32), ("moments", 351), ("solving", 97)),
)
def test_a_known_run_is_predicted(phase: str, measured_s: float) -> None:
    assert measured_s / 1.4 < costs().seconds[phase] < 1.4 * measured_s


def test_a_known_trial_is_predicted() -> None:
    """24 windows coded in 0.45 s, read in 0.43 s and compared in 0.05 s."""
    assert costs().seconds["levels"] / TRIALS == pytest.approx(24 * 0.93, rel=0.3)


def test_memory_is_that_of_the_known_run() -> None:
    """9.3 GB were resident at most."""
    assert 9.3e9 / 1.3 < costs().peak_bytes < 1.3 * 9.3e9


@pytest.mark.parametrize(
    ("changed", "phases"),
    (
        ({"own": 0.5}, {"reference runs", "moments"}),
        ({"twin": 0.5}, {"reference runs", "moments", "levels", "tables"}),
        ({"short": 0.5}, {"features"}),
        ({"eigenvectors": 0.5, "float64": 0.5}, {"solving"}),
        ({"copied": 0.5}, {"moments"}),
    ),
)
def test_what_is_slower_takes_longer(changed: dict[str, float], phases: set[str]) -> None:
    slower = {name: share * getattr(SPEEDS, name) for name, share in changed.items()}
    before, after = costs(), costs(speeds=replace(SPEEDS, **slower))
    longer = {name for name, took in after.seconds.items() if took > 1.001 * before.seconds[name]}
    assert longer == phases


def test_halved_speeds_double_everything() -> None:
    names = ("own", "twin", "short", "float32", "float64", "eigenvectors", "copied")
    slower = Speeds(**{name: getattr(SPEEDS, name) / 2 for name in names})
    assert costs(speeds=slower).total_s == pytest.approx(2 * costs().total_s)


def test_more_samples_take_longer_but_keep_no_more() -> None:
    before, after = costs(), costs(replace(WORK, num_samples=96))
    assert after.seconds["moments"] == pytest.approx(2 * before.seconds["moments"])
    assert after.peak_bytes == pytest.approx(before.peak_bytes)


def test_more_windows_take_longer_and_hold_more() -> None:
    before, after = costs(), costs(replace(WORK, windows=[*WORK.windows, [Piece(1536, 128)] * 8]))
    assert after.seconds["levels"] == pytest.approx(before.seconds["levels"] * 4 / 3)
    held = 8 * (1536 * 11_520 * 4 + 128 * 49_152 * 4)
    assert after.peak_bytes - before.peak_bytes == pytest.approx(held)


def test_tasks_are_coded_and_read_in_every_trial() -> None:
    before, after = costs(), costs(replace(WORK, tasks=[Piece(1536, 128)] * 24))
    assert 1.5 < after.seconds["levels"] / before.seconds["levels"] <= 2
    assert after.seconds["moments"] == before.seconds["moments"]


def test_other_presets_learn_less() -> None:
    plain, paper = (
        costs(replace(WORK, preset=preset, plan=None, read_tokens=0))
        for preset in ("plain", "paper")
    )
    phases = ["reference runs", "statistics", "levels", "tables", "sizes"]
    assert list(plain.seconds) == list(paper.seconds) == phases
    assert plain.total_s < costs().total_s and plain.peak_bytes < costs().peak_bytes
    assert paper.seconds["tables"] > 2 * plain.seconds["tables"]


def test_the_longer_attention_looks_back_the_more_a_pass_costs() -> None:
    assert SHAPE.flop(128, past=1536) > SHAPE.flop(128) + 128 * 1536 * SHAPE.attention - 1
    assert SHAPE.flop(128, predicted=128) - SHAPE.flop(128) == 2 * 127 * SHAPE.head


def test_one_line_for_people() -> None:
    found = Costs({"reference runs": 117.0, "features": 52.0, "levels": 350.0}, 5.24e9)
    assert found.describe() == (
        "about 9 min: reference runs 2 min, features 50 s, levels 6 min; peak memory about 5.2 GB"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    ((0.2, "1 s"), (7.4, "7 s"), (43, "45 s"), (400, "7 min"), (7700, "2 h 10 min")),
)
def test_rough_times(seconds: float, shown: str) -> None:
    assert rough(seconds) == shown
