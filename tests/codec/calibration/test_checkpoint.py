"""What is kept of a calibration, and that a run that was cut off ends as one that was not."""

import errno
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from cachegen.codec.calibration import checkpoint as module
from cachegen.codec.calibration import train
from cachegen.codec.calibration.calibrate import calibrate
from cachegen.codec.calibration.checkpoint import PHASES, Checkpoint, Saved
from cachegen.codec.calibration.progress import silent
from cachegen.codec.calibration.sample import START
from cachegen.codec.calibration.trials import Trials
from cachegen.codec.levels import Quality

SAVED = Saved({"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 4), np.int8)}, {"n": [1, 2.5]})


class Cut(Exception):
    """The run ends here."""


@pytest.fixture
def told():
    return []


@pytest.fixture
def kept(tmp_path, told):
    return partial(Checkpoint, tmp_path / "kept", tell=told.append)


@pytest.fixture
def _at_once(monkeypatch):
    """Keep after every sample, however short a time ago the last was kept."""
    monkeypatch.setattr(module, "_LEAST_S", 0.0)
    monkeypatch.setattr(module, "_SPARING", 0)


def test_what_is_kept_comes_back(kept, told):
    kept(b"x").save("moments", SAVED)
    found = kept(b"x").load("moments")
    assert found.state == SAVED.state
    for name, array in SAVED.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    assert kept(b"x").load("levels") is None
    assert told == []


def test_other_inputs_and_damage_are_left_out_and_said(kept, told, tmp_path):
    kept(b"x").save("moments", SAVED)
    assert kept(b"y").load("moments") is None
    assert "belongs to other inputs" in told.pop()
    path = tmp_path / "kept" / "moments.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:9], b"{}" * 40, whole[:-3] + b"abc", whole + b"0"):
        path.write_bytes(damaged)
        assert kept(b"x").load("moments") is None
        assert "is damaged and left out" in told.pop()
    kept(b"x").save("moments", SAVED)
    assert kept(b"x").load("moments") is not None


def test_a_file_of_another_version_is_left_out(kept, told, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_FORMAT", "cachegen-checkpoint-0")
        kept(b"x").save("levels", SAVED)
    assert kept(b"x").load("levels") is None
    assert "expected 'cachegen-checkpoint-1', got 'cachegen-checkpoint-0'" in told.pop()


def test_where_nothing_can_be_kept_the_run_goes_on(told, tmp_path):
    (tmp_path / "file").write_text("")
    one = Checkpoint(tmp_path / "file" / "kept", b"x", tell=told.append)
    assert one.save("moments", SAVED) is False
    assert one.save("moments", SAVED) is False
    assert len(told) == 1 and "progress is not kept" in told[0]
    assert one.load("moments") is None


def test_nothing_is_left_behind(kept, tmp_path):
    one = kept(b"x")
    assert one.save("moments", SAVED) is True
    one.save("levels", SAVED)
    (tmp_path / "kept" / "moments.part").write_bytes(b"cut off")
    one.drop("moments")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["levels.safetensors"]
    one.drop(*PHASES)
    assert not (tmp_path / "kept").exists()
    one.drop(*PHASES)


def test_saving_takes_little_of_the_time(kept, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = kept(b"x")
    assert not one.is_due()
    now[0] += 10
    assert one.is_due()

    def slowly(*_):
        now[0] += 3

    monkeypatch.setattr(module, "_write", slowly)
    one.save("moments", SAVED)
    now[0] += 59
    assert not one.is_due()
    now[0] += 1
    assert one.is_due()


@pytest.fixture
def calibrated(make_cache, distortion, rope_of, sample_of):
    """Calibrate on four samples; what is computed is counted, and may be cut off."""

    def run(checkpoint, preset, *, cut=None, counts=None):
        counts = {} if counts is None else counts

        def count(what):
            counts[what] = counts.get(what, 0) + 1
            if cut == (what, counts[what]):
                raise Cut

        def samples(after=START):
            assert after.state == bytes([after.count] * (after.count > 0))
            for number in range(after.count, 4):
                count("sample")
                kv = make_cache("mqa", 200, torch.float32, seed=number)
                yield replace(sample_of(kv), state=bytes([number + 1]))

        held_out = distortion(make_cache("mqa", 60, torch.float32, seed=9))

        def evaluate(roundtrip):
            count("trial")
            return held_out(roundtrip)

        def features():
            count("features")
            return np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)

        return calibrate(
            samples,
            evaluate=evaluate,
            fingerprint=bytes(32),
            rope=rope_of(make_cache("mqa", 1)),
            preset=preset,
            token_features=features,
            checkpoint=checkpoint,
        ).file_bytes

    return run


CUTS = {
    "transform": [("sample", 1), ("sample", 3), ("trial", 1), ("trial", 7), ("trial", 9)],
    "plain": [("sample", 3), ("trial", 7), ("sample", 7)],
    "paper": [("trial", 5), ("sample", 7)],
}


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(("preset", "cut"), [(p, cut) for p in CUTS for cut in CUTS[p]])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(calibrated, kept, told, preset, cut):
    whole = {}
    expected = calibrated(None, preset, counts=whole)
    first, second = {}, {}
    with pytest.raises(Cut):
        calibrated(kept(b"x"), preset, cut=cut, counts=first)
    assert calibrated(kept(b"x"), preset, counts=second) == expected
    assert told == []
    assert first["trial" if cut[0] == "trial" else "sample"] == cut[1]
    again = {name: first.get(name, 0) + second.get(name, 0) - whole[name] for name in whole}
    assert again["trial"] == (cut[0] == "trial")
    assert again.get("features", 0) == 0
    resumable = preset == "transform" or (preset == "plain" and cut != ("sample", 3))
    if resumable:
        assert again["sample"] == (cut[0] == "sample")


def test_all_samples_are_kept_before_the_long_solving(calibrated, kept, monkeypatch):
    """However short a time ago the last was."""

    def cut(*_, **__):
        raise Cut

    expected, counts = calibrated(None, "transform"), {}
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(train, "learn", cut)
        calibrated(kept(b"x"), "transform")
    assert calibrated(kept(b"x"), "transform", counts=counts) == expected
    assert "sample" not in counts and "features" not in counts


def test_a_disk_that_is_full_when_all_is_solved_destroys_nothing(
    calibrated, kept, told, monkeypatch
):
    """The moments are what a cut run goes on from where the transform could not be kept."""
    write, counts = module._write, {}

    def full(path, *content):
        if path.stem == "transform":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *content)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(module, "_write", full)
        calibrated(kept(b"x"), "transform", cut=("trial", 1))
    assert len(told) == 1 and "No space left on device" in told[0]
    expected = calibrated(None, "transform")
    assert calibrated(kept(b"x"), "transform", counts=counts) == expected
    assert "sample" not in counts and "features" not in counts


@pytest.mark.usefixtures("_at_once")
def test_two_cuts_in_one_run(calibrated, kept):
    expected = calibrated(None, "transform")
    for cut in (("sample", 2), ("sample", 2), ("trial", 5), ("trial", 5)):
        with pytest.raises(Cut):
            calibrated(kept(b"x"), "transform", cut=cut)
    assert calibrated(kept(b"x"), "transform") == expected


@pytest.mark.usefixtures("_at_once")
def test_progress_of_other_inputs_is_not_taken_up(calibrated, kept, told):
    with pytest.raises(Cut):
        calibrated(kept(b"x"), "transform", cut=("trial", 3))
    counts = {}
    assert calibrated(kept(b"y"), "transform", counts=counts) == calibrated(None, "transform")
    assert counts["sample"] == 4 and told


def test_qualities_come_back_exactly(kept):
    """The numbers of a trial, infinities too."""
    odd = Quality(float("inf"), 1 / 3, 0.1, 7, answer_kl=1e-300, exact_match=2 / 3)
    Trials(lambda step: {"a": odd}, kept(b"x"), silent, phase="levels")(0.1, level="low", done=1)
    again = Trials(lambda step: 1 / 0, kept(b"x"), silent, phase="levels")
    assert again(0.1, level="low", done=1).domains == {"a": odd}
