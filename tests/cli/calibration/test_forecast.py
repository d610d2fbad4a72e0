"""From a model and texts to what their calibration costs, and what is left of it."""

from pathlib import Path

import pytest

from cachegen import refmodel
from cachegen.cli.calibration.account import Account, how_it_ended
from cachegen.cli.calibration.costs import TRIALS, Costs, Piece
from cachegen.cli.calibration.forecast import describe_choices, forecast, left_of, work_of
from cachegen.cli.calibration.speeds import measure_speeds, shape_of
from cachegen.cli.calibration.texts import Material, SampleSizes
from cachegen.cli.models import load_network
from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.engines.transformers import Task, Window

COSTS = Costs(
    {
        "reference runs": 10.0,
        "features": 20.0,
        "moments": 40.0,
        "solving": 80.0,
        "levels": 120.0,
        "tables": 5.0,
    },
    peak_bytes=2e9,
)


@pytest.fixture(scope="module")
def network() -> object:
    return load_network(refmodel.weights_path())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "kept", b"inputs")


def material() -> Material:
    window = Window(tuple(range(1, 65)), tuple(range(1, 18)))
    task = Task("tasks", tuple(range(1, 33)), ((1, 2, 3), (4, 5)), ("one", "seven"))
    return Material([list(range(200))], {"a": [window] * 3, "b": [window]}, [task])


def test_the_work_is_what_the_material_holds() -> None:
    work = work_of(
        material(),
        SampleSizes(64, 4, 3),
        preset="plain",
        plan=None,
        features=48,
        most_coded=2,
        asked_tokens=100,
        draws=1,
    )
    assert [len(own) for own in work.windows] == [3, 1]
    assert work.windows[0][0] == Piece(64, 16)
    assert work.tasks == [Piece(32, 5 + len("oneseven"))]
    assert len(work.coded) == 3


def test_a_model_is_measured(network: object) -> None:
    shape = shape_of(network)
    assert shape.body + shape.head == sum(one.numel() for one in network.parameters())
    assert shape.values == 768 and shape.vocabulary == 2048
    speeds = measure_speeds(network, network, range(1, 65), shape)
    names = ("own", "short", "float32", "float64", "eigenvectors", "copied")
    assert all(getattr(speeds, name) > 1e6 for name in names)
    assert speeds.twin == speeds.own


def test_a_forecast_has_every_phase(network: object) -> None:
    plan, lines = describe_choices(network, max_profile_mb=2, max_features=48)
    assert lines[0].startswith("taken: ")
    found = forecast(
        network,
        network,
        network,
        material(),
        SampleSizes(64, 4, 3),
        preset="transform",
        plan=plan,
        max_features=48,
        most_coded=2,
    )
    assert list(found.seconds) == [
        "reference runs",
        "features",
        "moments",
        "solving",
        "levels",
        "tables",
        "sizes",
    ]
    assert all(took > 0 for took in found.seconds.values())
    assert found.peak_bytes > 1e8


def test_nothing_kept_leaves_everything(checkpoint: Checkpoint) -> None:
    assert left_of(COSTS, checkpoint, num_samples=4) == COSTS


@pytest.mark.parametrize(
    ("phase", "state", "left"),
    (
        ("features", {}, {"features": None}),
        ("moments", {"position": [3, ""]}, {"features": None, "moments": 10.0}),
        ("transform", {}, {"features": None, "moments": None, "solving": None}),
        (
            "levels",
            {"trials": [0] * (TRIALS // 2)},
            {"levels": 120.0 * (TRIALS - TRIALS // 2) / TRIALS},
        ),
        ("levels", {"trials": [0] * 2 * TRIALS}, {"levels": None}),
    ),
)
def test_what_is_kept_is_not_done_again(
    checkpoint: Checkpoint, phase: str, state: dict[str, object], left: dict[str, float | None]
) -> None:
    checkpoint.save(phase, Saved(state=state))
    expected = {**COSTS.seconds, **left}
    found = left_of(COSTS, checkpoint, num_samples=4).seconds
    assert found == {name: took for name, took in expected.items() if took is not None}


def test_what_was_kept_of_other_inputs_does_not_count(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    Checkpoint(tmp_path / "kept", b"others").save("transform", Saved())
    assert left_of(COSTS, checkpoint, num_samples=4) == COSTS
    (tmp_path / "kept" / "transform.safetensors").write_bytes(b"damage")
    assert left_of(COSTS, checkpoint, num_samples=4) == COSTS


def test_an_account_compares() -> None:
    times = iter([100.0, 400.0])
    account = Account(COSTS, clock=lambda: next(times), peak=lambda: 2_500_000_000)
    assert account.prediction.startswith("this will take about 5 min: reference runs 10 s")
    assert account.ended("finished") == (
        "finished after 5 min 00 s (predicted: about 5 min); peak memory 2.5 GB "
        "(predicted: about 2 GB)"
    )
    unknown = Account(COSTS, clock=lambda: 0.0, peak=lambda: None)
    assert "peak memory unknown" in unknown.ended("finished")


def test_how_work_ends() -> None:
    assert how_it_ended(KeyboardInterrupt()) == "interrupted"
    assert how_it_ended(ValueError("too small")) == "failed (ValueError: too small)"
