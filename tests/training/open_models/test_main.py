"""What the command says before any work, and the command that it gives to calibrate."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cachegen import refmodel
from training.open_models import __main__ as command
from training.open_models import calibrating
from training.open_models.recipes import RECIPES


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("expected no work")

    for name in ("fetch", "convert"):
        monkeypatch.setattr(command, name, refuse)


def test_every_recipe_is_complete():
    assert [recipe.name for recipe in RECIPES] == ["smollm2", "qwen"]
    assert [len(recipe.parts) for recipe in RECIPES] == [1, 6]
    assert all(len(recipe.sha256) == 64 for recipe in RECIPES)


@pytest.mark.usefixtures("no_work")
def test_calibration_without_texts_is_refused_before_any_work(tmp_path, capsys):
    arguments = ["smollm2", "--to", str(tmp_path / "models"), "--calibrate"]
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: CALIBRATE=1 needs DATA=DIR")
    assert command.main([*arguments, "--data", str(tmp_path / "absent")]) == 1
    assert "longchat/conversations.jsonl not found" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("no_work")
def test_missing_packages_are_named_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.open_models.converting.find_spec", lambda name: None)
    assert command.main(["--to", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: expected the packages transformers, gguf, accelerate: pip ins")


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["smollm3"])
    assert "expected names of smollm2, qwen; got smollm3" in capsys.readouterr().err


def test_the_makefile_passes_what_it_is_given(tmp_path):
    root = Path(__file__).parents[3]
    given = ["MODELS=some dir", "ONLY=qwen", "CALIBRATE=1", "DATA=texts"]
    made = ["make", "--no-print-directory", "--dry-run", "--assume-old=install", "models", *given]
    done = subprocess.run(made, cwd=root, capture_output=True, text=True, check=True)
    told = " ".join(done.stdout.replace("\\\n", " ").split())
    expected = "training.open_models qwen --to 'some dir' --calibrate --data 'texts'"
    assert told.endswith(expected)


def test_the_profile_is_written_into_the_models_folder_once(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "tiny"
    shutil.copytree(refmodel.weights_path(), folder)
    given = tmp_path / "given.json"
    program = f"import json, sys; json.dump(sys.argv[1:], open({str(given)!r}, 'w'))"
    monkeypatch.setattr(calibrating, "_CALIBRATE", ("-c", program))
    monkeypatch.setattr(calibrating, "write_texts", lambda *rest: {"chat": tmp_path / "chat.txt"})
    calibrating.calibrate(folder, tmp_path, tmp_path)
    profile = folder / "cachegen" / "profile.safetensors"
    assert json.loads(given.read_text()) == [
        *("--model", str(folder), "--text", f"chat={tmp_path / 'chat.txt'}"),
        *("--output", str(profile)),
    ]

    program = "raise SystemExit(3)"
    monkeypatch.setattr(calibrating, "_CALIBRATE", ("-c", program))
    with pytest.raises(ValueError, match="tiny: calibration ended with status 3"):
        calibrating.calibrate(folder, tmp_path, tmp_path)

    monkeypatch.setattr(calibrating, "PROFILE", refmodel.profile_path())
    calibrating.calibrate(folder, tmp_path, tmp_path)
    assert "remove it to calibrate again" in capfd.readouterr().err


def test_what_lies_beside_the_weights_is_moved_and_gone_on_with(tmp_path, monkeypatch, capfd):
    """vLLM would take the profile for weights."""
    folder = tmp_path / "tiny"
    shutil.copytree(refmodel.weights_path(), folder)
    beside, place = folder / "profile.safetensors", folder / "cachegen" / "profile.safetensors"
    (folder / "profile.safetensors.partial").mkdir()
    (folder / "profile.safetensors.partial" / "moments").touch()
    (folder / "profile.safetensors.log").touch()
    shutil.copy(refmodel.profile_path(), beside)
    monkeypatch.setattr(calibrating, "_CALIBRATE", ("-c", "raise SystemExit(3)"))
    calibrating.calibrate(folder, tmp_path, tmp_path)
    told = capfd.readouterr().err
    assert f"moved {beside} to {place}" in told and "remove it to calibrate again" in told
    assert sorted(path.name for path in place.parent.iterdir()) == [
        "profile.safetensors",
        "profile.safetensors.log",
        "profile.safetensors.partial",
    ]
    assert (place.parent / "profile.safetensors.partial" / "moments").exists()
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
