"""The demo with a model of one's own: stored once, asked from what another process loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, T5Config, T5ForConditionalGeneration
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app
from cachegen.cli.demo import chat as demo_chat
from cachegen.cli.demo import chat_reader as demo_chat_reader
from cachegen.cli.demo.chat_reader import run
from cachegen.cli.demo.chat_writer import ChatJob, find_profile, make_chat_job, store_chat
from cachegen.cli.demo.prompts import make_prompts
from cachegen.cli.demo.tables import show_chat
from cachegen.cli.models import load_model
from cachegen.codec.levels import LADDER

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}\nA:"
DOCUMENT = refmodel.load_text("heldout-craik")[:1500]
ASKED = ("Who is it?", "Where is it?")


def write_model(folder: Path, *, template: str | None = TEMPLATE, **changes: Any) -> Path:
    """The shipped model as somebody's own."""
    shutil.copytree(refmodel.weights_path(), folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    if changes:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def make_job(folder: Path, store: Path, profile: Path | None = None) -> tuple[Any, ChatJob]:
    network, tokenizer = load_model(folder)
    prompts = make_prompts(DOCUMENT, ASKED, tokenizer)
    return network, make_chat_job(network, prompts, model=folder, profile=profile, store=store)


def test_questions_are_answered_from_one_loaded_context(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_chat_reader, "REPEATS", 1)
    network, job = make_job(folder, tmp_path / "store")
    sizes = store_chat(network, job, lambda done, total: None)
    assert job.profile_is == "shipped"
    assert list(sizes) == job.levels == [*LADDER, "packed", "lossless", "raw"]
    assert list(sizes.values()) == sorted(sizes.values())
    read = run(job)
    levels = read["levels"]
    assert levels["lossless"]["kl"] == levels["raw"]["kl"] == 0
    assert levels["lossless"]["top1"] == 1
    assert levels["lowest"]["kl"] > levels["packed"]["kl"] >= 0
    assert all(level["load_s"] > 0 for level in levels.values())
    assert len(read["answers"]) == len(read["loaded_answers"]) == len(ASKED)

    ids = [*job.tokens, *job.ends[0]]
    own = network.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones((1, len(ids)), dtype=torch.int64),
        max_new_tokens=job.answer_tokens,
        do_sample=False,
    )
    _, tokenizer = load_model(folder)
    assert (
        read["answers"][0] == tokenizer.decode(own[0, len(ids) :], skip_special_tokens=True).strip()
    )


def test_a_profile_is_the_given_one_or_the_one_in_the_models_folder(folder: Path) -> None:
    assert find_profile(folder, None) is None
    own = folder / "cachegen" / "profile.safetensors"
    own.parent.mkdir()
    shutil.copy(refmodel.profile_path("plain"), own)
    assert find_profile(folder, None) == own
    given = refmodel.profile_path()
    assert find_profile(folder, given) == given
    _, job = make_job(folder, folder / "store", own)
    assert job.profile_is == job.profile == str(own)


def test_a_profile_beside_the_weights_is_told_of(folder: Path) -> None:
    beside = folder / "profile.safetensors"
    shutil.copy(refmodel.profile_path("plain"), beside)
    with pytest.raises(ValueError, match=r"move it there, or give --profile .*\.safetensors"):
        find_profile(folder, None)
    assert find_profile(folder, beside) == beside


def test_a_model_without_a_profile_is_stored_uncalibrated(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "model", rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    network, job = make_job(folder, tmp_path / "store")
    assert (job.profile, job.profile_is, job.default_level) == (None, "", "high")
    assert list(store_chat(network, job, lambda done, total: None)) == job.levels


def test_a_document_too_long_for_the_positions_says_what_fits(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", max_position_embeddings=256)
    with pytest.raises(ValueError, match=r"at most 256 tokens, the positions .* give --tokens \d+"):
        make_job(folder, tmp_path / "store")


@pytest.mark.slow
@pytest.mark.parametrize("has_template", [True, False])
def test_the_command_shows_levels_and_answers(
    tmp_path: Path, has_template: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(job: ChatJob, path: Path, *, module: str) -> dict[str, Any]:
        assert module == demo_chat_reader.__name__
        return run(job)

    monkeypatch.setattr(demo_chat, "read_in_new_process", read)
    monkeypatch.setattr(demo_chat_reader, "REPEATS", 1)
    folder = write_model(tmp_path / "model", template=TEMPLATE if has_template else None)
    done = CliRunner().invoke(app, command(folder, tmp_path), catch_exceptions=False)
    assert done.exit_code == 0
    check(json.loads(done.stdout), has_template=has_template)


@pytest.mark.slow
def test_the_command_reads_in_another_process(folder: Path, tmp_path: Path) -> None:
    whole = [sys.executable, "-m", "cachegen.cli", *command(folder, tmp_path)]
    done = subprocess.run(whole, capture_output=True, text=True, check=True)
    check(json.loads(done.stdout), has_template=True)


def command(folder: Path, scratch: Path) -> list[str]:
    text = scratch / "text.txt"
    text.write_text(DOCUMENT)
    options = ["--model", str(folder), "--document", str(text), "--tokens", "200"]
    return ["demo", *options, "--ask", "Who is it?", "--json"]


def check(result: dict[str, Any], *, has_template: bool) -> None:
    assert result["chat_template"] == has_template
    assert result["profile"] == "shipped"
    assert 200 <= result["context_tokens"] <= 240
    assert [answer["question"] for answer in result["answers"]] == ["Who is it?"]
    assert result["prefill_s"] > 0
    assert [level["name"] for level in result["levels"]][:5] == list(LADDER)


def test_the_tables_show_both_answers_and_what_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    level = {"name": "high", "bytes": 1000, "bits_per_value": 2.0, "ratio_fp16": 8.0}
    answer = {
        "question": "Who is it that they all look for?",
        "uncompressed": "Ann [1]",
        "loaded": "Ben",
        "equal": False,
    }
    result = {
        "model": "m",
        "profile": None,
        "chat_template": False,
        "context_tokens": 100,
        "questions": 1,
        "default_level": "high",
        "prefill_s": 1.0,
        "load_over_prefill": 0.1,
        "levels": [{**level, "load_s": 0.1, "kl": 0.01, "top1": 0.9}],
        "answers": [answer],
    }
    show_chat(result)
    printed = capsys.readouterr().out
    for expected in ("prefill 1000 ms, load 100 ms", "high *", "Ann [1]", "Ben", "0 answers the"):
        assert expected in printed
    assert "no chat template" in printed
    assert "cachegen calibrate --model m" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ask", "Who?"], "--ask needs --model DIR"),
        (["--model", "absent"], "expected a folder with a transformers model, got absent"),
        (["--model", "absent", "--no-link"], "--link is of the demo without --model"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["demo", *options])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith(said)


def test_a_model_with_another_head_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", architectures=["BertForMaskedLM"])
    with pytest.raises(ValueError, match=r"a causal language model in .*, got BertForMaskedLM"):
        load_model(folder)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    tiny = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=20, **tiny)).save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).model_type == "t5"
    with pytest.raises(ValueError, match=r"expected a causal language model in .*t5: Unrecog.*T5"):
        load_model(folder)
