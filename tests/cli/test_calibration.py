"""`calibrate`: domains, tasks, and what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app, calibration
from cachegen.codec.profile import read_profile

MODEL = str(refmodel.weights_path())
SMALL = ["--context-tokens", "64", "--num-samples", "4", "--num-windows", "1"]


@pytest.fixture(autouse=True)
def _few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solving for as many as the default takes most of a small run."""
    monkeypatch.setattr(calibration, "_MOST_FEATURES", 48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("craik", "python"):
        text = refmodel.load_text(f"heldout-{name}")[:9_000]
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    lines = [
        {"context": f"{context} {fact}", "prompt": "\nThe passkey of apple is", "answer": answer}
        for context in ("It was late.", "Nobody came.", "They sat down.", "Rain fell.")
        for fact, answer in [("The passkey of apple is 4821.", "4821")] * 2
    ]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return tmp_path


def test_every_text_is_a_domain(folder: Path) -> None:
    texts = ["--text", str(folder / "craik.txt"), "--text", f"manual={folder / 'python.txt'}"]
    options = ["--tasks", str(folder / "asked.jsonl"), "--max-profile-mb", "2"]
    output = folder / "profile.safetensors"
    command = ["calibrate", "--model", MODEL, *texts, *options, *SMALL, "-o", str(output)]
    result = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    profile = read_profile(output)
    assert profile.codec == "transform"
    assert output.stat().st_size < 2 * 2**20
    for level in profile.levels:
        assert set(level.domains) == {"craik", "manual", "tasks"}
        assert level.quality is not None
        assert level.quality.kl == max(found.kl for found in level.domains.values())
        assert level.domains["tasks"].num_answers == 2
        assert level.domains["craik"].num_tokens == 128
    described = json.loads(result.stdout)
    assert set(described["levels"][0]["domains"]) == {"craik", "manual", "tasks"}


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        ('{"context": "a"}', "{}", 'line 1: expected an object with "context"'),
        ("[1]", "{}", "line 1: expected an object"),
        ("{}", "tasks={}", "expected a name other than 'tasks'"),
        ("{}", "={}", "expected a name"),
    ],
)
def test_what_is_refused(folder: Path, line: str, text: str, message: str) -> None:
    (folder / "wrong.jsonl").write_text(line)
    text = text.format(folder / "craik.txt")
    options = ["--tasks", str(folder / "wrong.jsonl"), "-o", str(folder / "p")]
    command = ["calibrate", "--model", MODEL, "--text", text, *options]
    result = CliRunner().invoke(app, command)
    assert message in str(result.exception)
