"""`calibrate`, `save` and `load` on the shipped model."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app, main
from cachegen.codec.profile import read_profile

MODEL = str(refmodel.weights_path())


def run_json(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(refmodel.load_text("heldout-craik")[:2000])
    return path


def test_a_saved_text_is_loaded_and_continued_alike(text_file: Path, tmp_path: Path) -> None:
    common = ["--model", MODEL, "--text", str(text_file), "--store", str(tmp_path / "store")]
    saved = run_json("save", *common)
    assert saved["chunks"] == 1
    assert set(saved["bytes"]) >= {"lowest", "high", "lossless"}  # type: ignore[call-overload]
    lossless = run_json("load", *common, "--prompt", " He said", "--level", "lossless")
    default = run_json("load", *common, "--prompt", " He said")
    assert default["levels"] == [read_profile(refmodel.profile_path()).default_level]
    assert int(str(lossless["tokens_loaded"])) >= int(str(saved["tokens"])) - 64
    assert lossless["text"]
    other = run_json("load", *common, "--salt", "another tenant")
    assert other["tokens_loaded"] == 0
    assert other["bytes"] == 0


def test_a_load_is_drawn(text_file: Path, tmp_path: Path) -> None:
    common = ["--model", MODEL, "--text", str(text_file), "--store", str(tmp_path / "store")]
    run_json("save", *common, "--level", "high")
    page = tmp_path / "load.html"
    run_json("load", *common, "--slo", "5", "--timeline", str(page))
    picture = page.read_text()
    assert "fetch chunk 0 at high" in picture
    assert "deadline: 5000 ms" in picture


def test_calibrate_writes_a_profile_of_the_model(text_file: Path, tmp_path: Path) -> None:
    text_file.write_text(refmodel.load_text("heldout-craik")[:12_000])
    output = tmp_path / "profile.safetensors"
    options = ["--preset", "plain", "--context-tokens", "128", "--num-samples", "4"]
    options += ["--num-windows", "2"]
    found = run_json(
        "calibrate", "--model", MODEL, "--text", str(text_file), "-o", str(output), *options
    )
    profile = read_profile(output)
    assert found["hash"] == profile.hash.hex()
    assert profile.fingerprint == read_profile(refmodel.profile_path()).fingerprint
    kls = [level.quality.kl for level in profile.levels if level.quality]
    assert kls == sorted(kls, reverse=True)
    assert len(kls) == 5
    explained = run_json("inspect", str(output))
    assert explained["kind"] == "profile"
    assert explained["default_level"] == profile.default_level


@pytest.mark.parametrize("form", [str, Path.as_uri])
def test_a_load_from_nowhere_says_so_and_makes_nothing(
    text_file: Path, tmp_path: Path, monkeypatch, capsys, form
) -> None:
    folder = tmp_path / "not" / "there"
    options = ["--model", MODEL, "--text", str(text_file), "--store", form(folder)]
    monkeypatch.setattr(sys, "argv", ["cachegen", "load", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr() == (
        "",
        f"error: there is no folder {folder}: save a context there first, or check the path\n",
    )
    assert not (tmp_path / "not").exists()


def test_a_tilde_is_the_home_folder(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    """Also where no shell replaces it: in quotes, after `--store=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    common = ["--model", MODEL, "--text", str(text_file)]
    run_json("save", *common, "--store=~/kv", "--level", "lossless")
    assert (tmp_path / "kv").is_dir() and not (tmp_path / "~").exists()
    found = run_json("load", *common, "--store=~/kv", "--level", "lossless")
    assert int(str(found["tokens_loaded"])) > 0


def test_a_folder_without_a_model_is_refused(text_file: Path, tmp_path: Path) -> None:
    command = ["save", "--model", str(tmp_path), "--text", str(text_file), "--store", "memory:"]
    result = CliRunner().invoke(app, command)
    assert "expected a folder with a transformers model" in str(result.exception)
