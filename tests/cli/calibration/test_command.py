"""`calibrate`: domains, tasks, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app
from cachegen.cli.calibration import command as calibration
from cachegen.codec.calibration import calibrate as calibrating
from cachegen.codec.calibration import placement
from cachegen.codec.calibration.calibrate import TARGET_KL, Evaluate
from cachegen.codec.calibration.sample import RoundTrip
from cachegen.codec.levels import Quality
from cachegen.codec.profile import StepLimits, read_profile
from cachegen.engines import transformers as engine
from cachegen.engines.transformers import arithmetic, cache, learning

MODEL = str(refmodel.weights_path())
SMALL = ["--context-tokens", "64", "--num-samples", "4", "--num-windows", "1"]


@pytest.fixture(autouse=True)
def _small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few features, for solving takes most of a small run."""
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
    assert "no task to learn from has 191 tokens: tasks are only measured" in result.stderr
    profile = read_profile(output)
    assert profile.codec == "transform"
    assert output.stat().st_size < 2 * 2**20
    for level in profile.levels:
        assert set(level.domains) == {"craik", "manual", "tasks"}
        assert level.quality is not None
        assert level.quality.kl == max(found.kl for found in level.domains.values())
        assert level.domains["tasks"].num_answers == 2
        assert level.domains["craik"].num_tokens == 128
        bits = [found.bits_per_value or 0.0 for found in level.domains.values()]
        assert level.quality.bits_per_value == max(bits) and min(bits) > 0
    told_and_logged(result.stderr, output)
    described = json.loads(result.stdout)
    assert set(described["levels"][0]["domains"]) == {"craik", "manual", "tasks"}


def test_the_default_level_is_measured_on_long_contexts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those texts that have one; the trained model predicts well, and keeps the promise there."""
    for name, characters in (("short", 9_000), ("long", 40_000)):
        text = refmodel.load_text("heldout-craik")[:characters]
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    output = folder / "profile"
    command = ["calibrate", "--model", MODEL, *SMALL, "--preset", "plain", "-o", str(output)]
    command += ["--text", str(folder / "short.txt"), "--text", str(folder / "long.txt")]
    result = CliRunner().invoke(app, [*command, "--long-tokens", "1024"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    profile = read_profile(output)
    long = profile.level(profile.default_level).long
    assert long is not None and long.num_tokens == 1024
    assert set(long.domains) == {"long"} and long.domains["long"].num_tokens == 256
    assert 0 < long.quality.kl <= 0.003
    assert re.search(r"\blengths \d+ (s|min)\b", result.stderr)
    assert "long, 1024 tokens" in " ".join(result.stdout.split())
    shown = CliRunner().invoke(app, ["inspect", str(output)])
    assert "long, contexts of 1024 tokens: kl" in shown.stdout
    assert re.search(r"measured_up_to_tokens:?\s+1024", shown.stdout)


@pytest.mark.parametrize("is_slow", (False, True))
def test_a_machine_that_computes_16_bits_slowly_prefills_in_32(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    monkeypatch.setattr(arithmetic, "is_slow", lambda *_: is_slow)
    prefilled = set()

    def capture(model, tokens, **options):
        prefilled.add(model.dtype)
        return cache.capture(model, tokens, **options)

    monkeypatch.setattr(learning, "capture", capture)
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain"]
    output = folder / "profile"
    result = CliRunner().invoke(app, ["calibrate", "--model", MODEL, *common, "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert prefilled == {torch.float32 if is_slow else torch.bfloat16}
    assert read_profile(output).geometry.dtype == torch.bfloat16
    told = "this machine computes bfloat16 slowly: contexts are prefilled in float32, and rounded"
    assert (told in result.stderr) == is_slow


@pytest.mark.parametrize("asked", ("8192", "1000000"))
def test_long_contexts_are_as_long_as_the_model_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain"]
    command = ["calibrate", "--model", MODEL, *common, "-o", str(folder / "profile")]
    result = CliRunner().invoke(app, [*command, "--long-tokens", asked])
    assert result.exit_code == 0, result.output
    assert "no text has 8192 tokens in its last quarter" in result.stderr
    assert "measured on contexts of 64 tokens only" in result.stderr
    refused = CliRunner().invoke(app, [*command, "--long-tokens", "-1"])
    assert "--long-tokens of at least 0, got -1" in str(refused.exception)


def told_and_logged(stderr: str, output: Path) -> None:
    """What it will cost is said before it begins, and what it cost afterwards, in the log too."""
    lines = Path(f"{output}.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d  ", line) for line in lines)
    logged = [line.partition("  ")[2] for line in lines]
    prediction = next(line for line in logged if line.startswith("this will take about "))
    assert prediction in stderr.splitlines()
    for phase in ("reference runs", "features", "moments", "solving", "levels", "tables", "sizes"):
        assert re.search(rf"\b{phase} \d+ (s|min)\b", prediction), prediction
        assert f"{phase}: begins" in logged
        assert any(line.startswith(f"{phase}: took ") for line in logged)
    assert stderr.index(prediction) < stderr.index("reference runs (then")
    assert re.search(r"peak memory about [\d.]+ GB$", prediction)
    assert "no task to learn from has 191 tokens: tasks are only measured" in logged
    assert sum(line.startswith("trial for level ") for line in logged) > 4
    assert any(line.startswith("level high") for line in logged)
    ended = r"finished after .* \(predicted: about .*\); peak memory [\d.]+ GB \(predicted: .*\)"
    assert re.fullmatch(ended, logged[-1]) and logged[-1] in stderr.splitlines()


def test_a_log_that_cannot_be_written_is_said_once_and_the_work_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    output = folder / "profile"
    (folder / "profile.log").mkdir()
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain", "-o", str(output)]
    result = CliRunner().invoke(app, ["calibrate", "--model", MODEL, *common])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("is not written any more, the work goes on") == 1
    assert read_profile(output)


def test_a_profile_goes_into_a_folder_of_its_own_and_beside_the_weights_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    model = folder / "model"
    shutil.copytree(MODEL, model)
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain"]
    result = CliRunner().invoke(app, ["calibrate", "--model", str(model), *common])
    assert result.exit_code == 0, result.output
    assert "for weights" not in result.stderr
    assert read_profile(model / "cachegen" / "profile.safetensors")
    assert [path.name for path in model.glob("*.safetensors*")] == ["model.safetensors"]

    output = ["-o", str(model / "profile.safetensors")]
    result = CliRunner().invoke(app, ["calibrate", "--model", str(model), *common, *output])
    assert result.exit_code == 0, result.output
    assert "vLLM takes every *.safetensors beside a model's weights for weights" in result.stderr


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads the model has gone on too far."""

    def load(folder: Path) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(calibration, "load_twins", load)


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["calibrate", "--model", MODEL, *arguments])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


@pytest.mark.usefixtures("_no_model")
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
    assert message in refusal("--text", text, *options)


@pytest.mark.usefixtures("_no_model")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-samples", "40"], "--num-samples 40: expected text for 40 pieces of 191 tokens"),
        (["--num-windows", "40"], "--num-windows 40 in its last quarter: expected text for 40"),
        (["--context-tokens", "4000"], "text 'craik', "),
        (["--context-tokens", "1"], "expected --context-tokens above the 1 tokens put before"),
        (["--num-samples", "0"], "expected --num-samples of at least 1, got 0"),
        (["--num-windows", "-1"], "expected --num-windows of at least 1, got -1"),
        (["--preset", "best"], "expected a preset of transform, plain, paper"),
        (["-o", "{folder}"], "name a file in it"),
        (["-o", "{folder}/missing/p"], "there is no folder"),
        (["--text", "{folder}/craik.txt"], "got two texts 'craik'"),
        (["--tasks", "{folder}/none.jsonl"], "expected at least one question, got none"),
        (["--tasks", "{folder}/empty.jsonl"], "line 1: expected texts that are not empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    folder: Path, options: list[str], message: str
) -> None:
    (folder / "none.jsonl").write_text("")
    (folder / "empty.jsonl").write_text('{"context": "It was late.", "prompt": "a", "answer": ""}')
    given = [option.format(folder=folder) for option in options]
    common = ["--text", str(folder / "craik.txt"), "-o", str(folder / "p"), *SMALL]
    assert message in refusal(*common, *given)
    assert not (folder / "p").exists() and not (folder / "p.partial").exists()


def test_a_profile_too_small_for_anything_is_refused_before_anything_is_read(folder: Path) -> None:
    common = ["--text", str(folder / "craik.txt"), "-o", str(folder / "p"), *SMALL]
    for size in ("0.01", "0", "nan"):
        assert "--max-profile-mb" in refusal(*common, "--max-profile-mb", size)
    assert not (folder / "p.partial").exists()


class Judge:
    """In place of what measures quality: it has no contexts."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    def __call__(self, roundtrip: RoundTrip) -> Mapping[str, Quality]:
        return self._evaluate(roundtrip)

    def contexts(self, **_: object) -> dict[str, list[object]]:
        return {}


def measuring(monkeypatch: pytest.MonkeyPatch, evaluate: Evaluate) -> None:
    """Put this in place of what measures quality."""
    monkeypatch.setattr(engine, "evaluator", lambda *_, **__: Judge(evaluate))
    monkeypatch.setattr(engine, "noise_floor", lambda *_: 0.0)


@pytest.mark.parametrize(("preset", "kl"), [("plain", 9.0), ("transform", 0.0)])
def test_targets_out_of_reach_are_said_and_the_profile_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, preset: str, kl: float
) -> None:
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(kl, 0.0, 1.0, 10)})
    common = ["--model", MODEL, "--text", str(folder / "craik.txt"), *SMALL, "--preset", preset]
    output = folder / "profile.safetensors"
    result = CliRunner().invoke(app, ["calibrate", *common, "-o", str(output), "--json"])
    assert result.exit_code == 0, result.output
    said = "no step keeps KL within 0.1" if kl else "KL stays below 0.1 whatever the step"
    assert f"level lowest: {said}" in result.stderr
    described = json.loads(result.stdout)
    assert said in described["note_out_of_reach"]
    assert described["hash"] == read_profile(output).hash.hex()
    assert sorted(path.name for path in folder.iterdir()) == [
        "asked.jsonl",
        "craik.txt",
        "profile.safetensors",
        "profile.safetensors.log",
        "python.txt",
    ]


def test_a_profile_that_cannot_be_read_back_replaces_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is kept, the earlier file too."""
    measuring(monkeypatch, lambda roundtrip: {"text": Quality(0.0, 0.0, 1.0, 10)})
    output = folder / "profile"
    earlier = refmodel.profile_path("plain").read_bytes()
    output.write_bytes(earlier)
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain", "-o", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(placement, "_FIRST_STEP", 1e7)
        patch.setattr(calibrating, "step_limits", lambda scales: StepLimits(1e7, 1e8))
        assert "cannot be read back" in refusal(*common)
    assert output.read_bytes() == earlier
    assert (folder / "profile.partial").is_dir()
    result = CliRunner().invoke(app, ["calibrate", "--model", MODEL, *common])
    assert result.exit_code == 0, result.output
    assert f"level high: KL stays below {TARGET_KL[3]}" in result.stdout
    assert read_profile(output) and not (folder / "profile.partial").exists()


def test_an_interrupted_run_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(roundtrip: object) -> dict[str, Quality]:
        raise KeyboardInterrupt

    measuring(monkeypatch, interrupt)
    output = folder / "profile"
    common = ["--text", str(folder / "craik.txt"), *SMALL, "--preset", "plain", "-o", str(output)]
    result = CliRunner().invoke(app, ["calibrate", "--model", MODEL, *common])
    assert result.exit_code != 0
    kept = f"{output}.partial keeps what is done"
    assert f"Interrupted: {kept}; give the same command again to go on" in result.stderr
    assert "  interrupted after " in Path(f"{output}.log").read_text().splitlines()[-1]
    assert not output.exists()


KILLED = """
import os, signal, sys
import torch
from cachegen.cli import app
from cachegen.cli.calibration import command as calibration
from cachegen.codec.calibration import checkpoint
from cachegen.codec.calibration import trials
from cachegen.engines.transformers import learning as hf_learning

torch.set_num_threads(1)
calibration._MOST_FEATURES = 48
checkpoint._LEAST_S, checkpoint._SPARING = 0.0, 0
# No model is loaded before the processes part: the threads that this takes do not survive a fork.

def killing(what, left, work):
    def run(*arguments):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        print(what, file=sys.stderr, flush=True)
        return work(*arguments)
    return run

def run_killed(sample, trial):
    child = os.fork()
    if not child:
        hf_learning.capture = killing("sample", sample, hf_learning.capture)
        trials.Trials._measured = killing("trial", trial, trials.Trials._measured)
        app(sys.argv[2:])
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"ended with {ended}", file=sys.stderr, flush=True)

run_killed(3, 0)
run_killed(0, 3)
"""


@pytest.mark.slow
def test_a_killed_run_is_taken_up_again_with_the_same_result(folder: Path) -> None:
    """Killed while it learns, then while it places levels; nothing is computed twice."""
    common = ["calibrate", "--model", MODEL, "--text", str(folder / "craik.txt"), *SMALL]
    common += ["--max-profile-mb", "1", "-o"]
    expected, output = folder / "expected", folder / "profile"
    script = [sys.executable, "-c", KILLED, MODEL, *common, str(output)]
    with subprocess.Popen(script, stderr=subprocess.PIPE, text=True) as process:
        whole = CliRunner().invoke(app, [*common, str(expected)], catch_exceptions=False)
        said = process.communicate(timeout=200)[1]
    assert said.count("ended with -9\n") == 2, said
    first, second, rest = said.split("ended with -9\n")
    assert rest == "" and first.splitlines().count("sample") == 2, said
    lines = second.splitlines()
    assert lines.count("sample") == 2 and lines.count("trial") == 2, said
    assert any(
        line.startswith("moments (then solving, levels, lengths, tables, sizes); 2 of 4")
        for line in lines
    )
    last = CliRunner().invoke(app, [*common, str(output)], catch_exceptions=False)
    assert "moments (" not in last.stderr and last.stderr.count("(known)") >= 2
    assert last.stderr.count("trial for") == whole.stderr.count("trial for")
    assert output.read_bytes() == expected.read_bytes()
    assert not (folder / "profile.partial").exists()
