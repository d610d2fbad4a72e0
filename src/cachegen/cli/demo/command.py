"""`demo`: the main job on a document, from disk in a new process, then over a link of some rate."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.demo.process import read_in_new_process
from cachegen.cli.demo.tables import show_levels, show_link
from cachegen.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from cachegen.cli.demo.writer import WriterJob

# As `save_context` has it by default.
CHUNK_TOKENS = 1536
# Arbitrary: 128 to 512 do, so that a load over the link has several chunks.
LINK_CHUNK_TOKENS = 256
# Arbitrary: 4 to 24 do; they are asked of every method.
LINK_QUESTIONS = 12
# One chunk.
TOKENS = 1536
_WITH_MODEL = ("document", "ask")
_WITHOUT_MODEL = ("questions", "data", "seed", "link", "mbit", "link_tokens", "timeline")


def demo(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a chat model, to ask instead of the shipped small one."),
    ] = None,
    document: Annotated[
        Path | None,
        typer.Option(help="With --model: text file to ask about; default: a shipped one."),
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option(help="With --model: a question about it; repeatable.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            help="Profile; default: cachegen/profile.safetensors in --model, the shipped one."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Length of the document; default: 1536, with --model all of it."),
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions about it.")] = 24,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of *.txt to make the document from; default: a shipped novel."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder to store in; default: a temporary one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the document.")] = 1,
    link: Annotated[bool, typer.Option(help="Then load another document over a link.")] = True,
    mbit: Annotated[float, typer.Option(min=0.1, help="Rate of the link in Mbit/s.")] = 20.0,
    link_tokens: Annotated[int, typer.Option(help="Length of that document.")] = 2048,
    timeline: Annotated[
        Path, typer.Option(help="File for a picture of one load over it, .html or .svg.")
    ] = Path("cachegen-demo.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prefill a document, store its KV cache at every level, load it elsewhere, ask questions.

    Then the same over a link of a chosen rate: the text, the raw and the 8-bit cache, CacheGen.
    With --model a chat model of yours is asked about a text, and only from disk.
    """
    _check_options(context, with_model=model is not None)
    if model is not None:
        from cachegen.cli.demo.chat import chat_demo

        chat_demo(
            model,
            profile=profile,
            document=document,
            questions=ask or (),
            num_tokens=tokens,
            store=store,
            as_json=as_json,
        )
        return
    from cachegen.cli.demo.writer import make_job, store_levels

    with tempfile.TemporaryDirectory() as scratch, progress_bar(quiet=as_json) as progress:
        progress.begin("prefill and encode")
        folder = store or Path(scratch) / "store"
        make = partial(make_job, None, profile, data=data, folder=folder, seed=seed)
        length = TOKENS if tokens is None else tokens
        job = make(num_tokens=length, num_questions=questions, chunk_tokens=CHUNK_TOKENS)
        written = store_levels(job)
        progress.update("load in a new process and answer")
        told, module = Path(scratch) / "job.json", "cachegen.cli.demo.reader"
        result = _combine(job, written, read_in_new_process(job, told, module=module))
        if link:
            from cachegen.cli.demo.link import compare

            result["link"] = compare(
                make(
                    num_tokens=link_tokens,
                    num_questions=min(questions, LINK_QUESTIONS),
                    chunk_tokens=LINK_CHUNK_TOKENS,
                ),
                mbit_s=mbit,
                picture=timeline,
                step=progress.update,
            )
    if as_json:
        print_json(result)
        return
    show_levels(result)
    if link:
        show_link(result["link"])


def _check_options(context: typer.Context, *, with_model: bool) -> None:
    """Refuse what would be ignored.

    Raises:
        ValueError: an option of the other demo.
    """
    for name in _WITHOUT_MODEL if with_model else _WITH_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            needs = "is of the demo without --model" if with_model else "needs --model DIR"
            raise ValueError(f"{option} {needs}: leave it out, or see `cachegen demo --help`")


def _combine(
    job: WriterJob, written: dict[str, dict[str, Any]], read: dict[str, Any]
) -> dict[str, Any]:
    fp16_bytes, int8_bytes = read["fp16_bytes"], written["packed"]["bytes"]
    levels = []
    for name in job.levels:
        found = read["levels"][name]
        size = written[name]["bytes"]
        levels.append(
            {
                "name": name,
                "bytes": size,
                "bits_per_value": round(16 * size / fp16_bytes, 4),
                "ratio_fp16": round(fp16_bytes / size, 2),
                "ratio_int8": round(int8_bytes / size, 2),
                "encode_s": round(written[name]["encode_s"], 5),
                "load_s": round(found["load_s"], 5),
                "kl": round(found["kl"], 6),
                "answers_correct": found["answers_correct"],
                "answers_equal": found["answers_equal"],
            }
        )
    default = read["default_level"]
    return {
        "context_tokens": len(job.tokens),
        "questions": len(job.prompts),
        "answers_correct": read["answers_correct"],
        "answers_equal": read["levels"][default]["answers_equal"],
        "default_level": default,
        "prefill_s": round(read["prefill_s"], 5),
        "load_over_prefill": round(read["levels"][default]["load_s"] / read["prefill_s"], 4),
        "fp16_bytes": fp16_bytes,
        "int8_bytes": int8_bytes,
        "levels": levels,
    }
