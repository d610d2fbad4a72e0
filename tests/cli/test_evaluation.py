"""`eval`: what it prints and writes, what it refuses, and that it goes on where it was."""

import json
import math
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app
from cachegen.evaluation.sections.make import Sections
from cachegen.evaluation.times import deadlines, loads

WORDS = ("a grey ship came in by night", "and no one had heard of it", "until the bell rang")
METHODS = "cachegen,raw,uniform,broken"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    draw = random.Random(0)
    articles = (
        f" = Article {n} = \n \n " + " ".join(draw.choices(WORDS, k=150)) + " \n" for n in range(20)
    )
    (folder / "text" / "wikitext2_valid.txt").write_text(" \n" + "".join(articles))
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    model = ["--model", str(refmodel.weights_path())]
    amount = ["--quick", "--cases", "2", "--context-tokens", "500", "--gb-month", "0.5"]
    what = ["--datasets", "wikitext,passkey", "--methods", METHODS]
    return ["eval", *model, "--data", str(data), "--out", str(out), *amount, *what, *more]


@pytest.fixture(scope="module")
def evaluated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out") / "report"
    few = loads.Loads(lengths=(256,), mbit_s=(200,), concurrency=(1,), runs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loads, "QUICK", few)
        patch.setattr(deadlines, "QUICK", deadlines.Deadlines(loads=2, shares=(0.5, 1.1)))
        result = CliRunner().invoke(app, command(data, out, "--json"), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def failed(printed: dict) -> list[dict]:
    """Beside steps of the ablation that do not reach the default level's KL on texts so simple."""
    return [one for one in printed["failures"] if one["method"] != "ablation"]


def test_what_a_script_reads(evaluated: tuple[Path, dict]) -> None:
    _, printed = evaluated
    assert printed["kl_arithmetic"] == "float32" and printed["model"] == "reference-4m"
    assert not failed(printed)
    rows = {(row["method"], row["level"], row["dataset"]): row for row in printed["rows"]}
    for row in rows.values():
        assert {"tokens", "bits_per_value", "kl", "rel_ppl", "top1", "score"} <= row.keys()
        assert row["n"] == 2 and row["bits_per_value"] > 0
        asks = row["dataset"] == "passkey"
        assert (row["score"] is None, row["rel_ppl"] is None) == (not asks, asks)
    assert {method for method, _, _ in rows} == set(METHODS.split(","))
    assert rows["raw", "16", "wikitext"]["bits_per_value"] == 16
    assert rows["raw", "16", "wikitext"]["kl"] == 0
    summary = printed["summary"]
    assert summary["default_level"] == "high" and summary["int8_bits"] > 8
    assert summary["decode_over_prefill"] > 0 and summary["encode_over_prefill"] > 0
    own = [rows["cachegen", "high", name] for name in ("wikitext", "passkey")]
    assert summary["default_kl"] == max(row["kl"] for row in own)
    assert summary["default_bits_per_value"] == max(row["bits_per_value"] for row in own)


def test_a_broken_codec_is_worse(evaluated: tuple[Path, dict]) -> None:
    _, printed = evaluated
    rows = {(row["method"], row["level"], row["dataset"]): row for row in printed["rows"]}
    for dataset in ("wikitext", "passkey"):
        good, bad = rows["cachegen", "high", dataset], rows["broken", "high", dataset]
        assert bad["kl"] > 10 * good["kl"] and bad["top1"] < good["top1"]
    assert rows["broken", "high", "wikitext"]["rel_ppl"] > 0.05


def test_sizes_are_those_of_files(evaluated: tuple[Path, dict]) -> None:
    """Bits of the default level from chunks that `encode` would write."""
    from cachegen import encode, read_profile
    from cachegen.cli.models import load_tokenizer, load_twins
    from cachegen.engines.transformers.arithmetic import prefiller
    from cachegen.evaluation import datasets

    out, printed = evaluated
    prefill = prefiller(*load_twins(refmodel.weights_path()))
    tokenizer = load_tokenizer(refmodel.weights_path())
    profile = read_profile(refmodel.profile_path())
    cases = datasets.load(
        ["passkey"], out, tokenizer, context_tokens=500, count=2, seed=0
    )["passkey"]  # fmt: skip
    num_bytes = num_values = 0
    for case in cases:
        kv = prefill(case.context)
        path = out / "chunk.kv"
        path.write_bytes(encode(kv, tokens=case.context, profile=profile, level="high"))
        num_bytes += path.stat().st_size
        num_values += sum(plane.numel() for plane in kv.planes())
    row = next(
        row
        for row in printed["rows"]
        if (row["method"], row["level"], row["dataset"]) == ("cachegen", "high", "passkey")
    )
    assert row["bits_per_value"] == pytest.approx(8 * num_bytes / num_values, rel=1e-6)


def test_the_report_is_written(evaluated: tuple[Path, dict]) -> None:
    out, printed = evaluated
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and "passkey" in page
    assert (out / "rows.csv").read_text().count("\n") == len(printed["rows"]) + 1
    kept = json.loads((out / "results.json").read_text())[0]
    assert kept["rows"] == printed["rows"] and kept["command"].startswith("cachegen")
    assert kept["ttft"] and kept["timeline"] and [one["part"] for one in kept["breakdown"]] == [
        "prefill", "encode", "decode"
    ]  # fmt: skip


def test_sections_beside_the_rows_are_filled(evaluated: tuple[Path, dict]) -> None:
    out, printed = evaluated
    kept = json.loads((out / "results.json").read_text())[0]
    assert {row["policy"] for row in kept["slo"]} >= {"cachegen adaptive", "cachegen high", "text"}
    assert all(row["n"] == 2 and row["mean_kl"] is not None for row in kept["slo"])
    steps = {one["step"]: one for one in kept["ablation"]}
    first, *_, last = steps
    assert (first, last) == ("a grid for each vector", "the model's profile: high")
    own = next(
        row
        for row in printed["rows"]
        if (row["method"], row["level"], row["dataset"]) == ("cachegen", "high", "wikitext")
    )
    assert steps["the model's profile: high"]["bits_per_value"] == own["bits_per_value"]
    assert {one["kl"] for one in kept["ablation"]} == {own["kl"]}
    assert any(one["what"] == "storing pays from, high" for one in kept["cost"])
    assert all("$0.5 a GB" in one["formula"] for one in kept["cost"] if "month" in one["formula"])


def test_a_second_run_measures_nothing_again(
    evaluated: tuple[Path, dict], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, printed = evaluated
    monkeypatch.setattr("cachegen.evaluation.run.prepare", lambda *_: 1 / 0)
    monkeypatch.setattr(Sections, "loads", lambda _: ((), ()))
    monkeypatch.setattr(Sections, "deadlines", lambda _: ())
    before = json.loads((out / "results.json").read_text())[0]
    result = CliRunner().invoke(app, command(data, out, "--json"), catch_exceptions=False)
    again = json.loads(result.stdout)
    assert again["rows"] == printed["rows"] and not failed(again)
    assert json.loads((out / "results.json").read_text())[0]["ablation"] == before["ablation"]


def test_other_inputs_need_another_folder(evaluated: tuple[Path, dict], data: Path) -> None:
    out, _ = evaluated
    result = CliRunner().invoke(app, command(data, out, "--seed", "1"))
    assert "got another seed; name another --out" in str(result.exception)


@pytest.mark.parametrize(
    ("more", "said"),
    (
        (("--methods", "raw,none-such"), "expected methods among cachegen, .*; got none-such"),
        (("--datasets", "none-such"), "none-such"),
        (("--cases", "0"), "--cases of at least 1, got 0"),
        (("--context-tokens", "-3"), "--context-tokens of at least 1, got -3"),
    ),
)
def test_names_and_numbers_that_nobody_knows(
    data: Path, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    result = CliRunner().invoke(app, command(data, tmp_path / "out", *more))
    with pytest.raises(ValueError, match=said):
        raise result.exception


def test_a_dataset_that_is_missing_is_left_out_and_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sections, "loads", lambda _: ((), ()))
    monkeypatch.setattr("cachegen.evaluation.sections.make.measured", lambda *_, **__: 1 / 0)
    asked = command(data, tmp_path, "--datasets", "lcc,passkey", "--methods", "raw,kvtc", "--json")
    result = CliRunner().invoke(app, asked, catch_exceptions=False)
    printed = json.loads(result.stdout)
    assert {row["dataset"] for row in printed["rows"]} == {"passkey"}
    reasons = {one["method"]: one["reason"] for one in failed(printed)}
    assert set(reasons) == {"dataset lcc", "kvtc", "deadlines"}
    assert reasons["deadlines"].startswith("ZeroDivisionError")
    assert "longbench/lcc.jsonl.xz" in reasons["dataset lcc"]
    assert all(math.isfinite(row["kl"]) for row in printed["rows"])
