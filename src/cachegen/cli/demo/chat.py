"""`demo --model`: a document and questions, for any chat model with its template."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachegen.cli.demo.process import read_in_new_process
from cachegen.cli.demo.prompts import (
    GENERAL_QUESTIONS,
    QUESTIONS,
    make_prompts,
    shipped_document,
    shorten,
)
from cachegen.cli.demo.tables import show_chat
from cachegen.cli.output import Display, print_json, progress_bar

if TYPE_CHECKING:
    from cachegen.cli.demo.chat_writer import ChatJob


def chat_demo(
    model: Path,
    *,
    profile: Path | None,
    document: Path | None,
    questions: Sequence[str],
    num_tokens: int | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Store the document, load it in a new process, ask, show what came out.

    Raises:
        ValueError: no such model or document, or the one is too long for the other.
    """
    text = _read(document) if document else shipped_document()
    asked = list(questions) or list(GENERAL_QUESTIONS if document else QUESTIONS)
    with tempfile.TemporaryDirectory() as scratch, progress_bar(quiet=as_json) as progress:
        progress.begin("load the model")
        result = _run(
            model,
            profile,
            text,
            asked,
            num_tokens=num_tokens,
            store=store or Path(scratch) / "store",
            told=Path(scratch) / "job.json",
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        show_chat(result)


def _run(
    model: Path,
    profile: Path | None,
    text: str,
    asked: Sequence[str],
    *,
    num_tokens: int | None,
    store: Path,
    told: Path,
    progress: Display,
) -> dict[str, Any]:
    from cachegen.cli.demo.chat_writer import find_profile, make_chat_job, store_chat
    from cachegen.cli.models import load_model

    network, tokenizer = load_model(model)
    prompts = make_prompts(shorten(text, num_tokens, tokenizer), asked, tokenizer)
    found = find_profile(model, profile)
    job = make_chat_job(network, prompts, model=model, profile=found, store=store)
    progress.update(f"prefill and encode {len(job.tokens)} tokens")
    sizes = store_chat(
        network, job, lambda done, total: progress.update(completed=done, total=total)
    )
    del network
    progress.update("load in a new process and answer")
    read = read_in_new_process(job, told, module="cachegen.cli.demo.chat_reader")
    return {"chat_template": prompts.is_chat, **_combine(job, asked, sizes, read)}


def _combine(
    job: ChatJob, asked: Sequence[str], sizes: dict[str, int], read: dict[str, Any]
) -> dict[str, Any]:
    fp16_bytes, levels = read["fp16_bytes"], []
    for name, size in sizes.items():
        found = read["levels"][name]
        levels.append(
            {
                "name": name,
                "bytes": size,
                "bits_per_value": round(16 * size / fp16_bytes, 4),
                "ratio_fp16": round(fp16_bytes / size, 2),
                "load_s": round(found["load_s"], 5),
                "kl": round(found["kl"], 6),
                "top1": round(found["top1"], 4),
            }
        )
    answers = [
        {"question": question, "uncompressed": own, "loaded": loaded, "equal": own == loaded}
        for question, own, loaded in zip(
            asked, read["answers"], read["loaded_answers"], strict=True
        )
    ]
    load_s = read["levels"][job.default_level]["load_s"]
    return {
        "model": job.model,
        "profile": job.profile_is or None,
        "context_tokens": len(job.tokens),
        "questions": len(asked),
        "answers_equal": sum(answer["equal"] for answer in answers) / len(answers),
        "default_level": job.default_level,
        "prefill_s": round(read["prefill_s"], 5),
        "load_over_prefill": round(load_s / read["prefill_s"], 4),
        "fp16_bytes": fp16_bytes,
        "levels": levels,
        "answers": answers,
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"expected a text file in UTF-8, got {path}: {exc}") from exc
