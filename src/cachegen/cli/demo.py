"""`demo`: the main job on a real document, saved by this process and loaded by a new one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from cachegen.codec.profile import Profile
    from cachegen.kvcache import KVCache

CONTINUATION_TOKENS = 128
CHUNK_TOKENS = 1536
_ENCODE_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """What the reading process is told: where to look, what to ask. It gets no caches.

    Attributes:
        model: folder of the model.
        profile: file of the profile.
        store: folder of the store.
        tokens: the document.
        continuation: the tokens that follow it in the text, to measure KL on.
        prompts: one for each question, to append to the document.
        answers: what the document says.
        levels: names to load.
    """

    model: str
    profile: str
    store: str
    tokens: list[int]
    continuation: list[int]
    prompts: list[str]
    answers: list[str]
    levels: list[str]


def demo(
    model: Annotated[
        Path | None, typer.Option(help="Folder of a transformers model; default: the shipped one.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Its profile; default: the shipped one.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Length of the document.")] = 1536,
    questions: Annotated[int, typer.Option(help="Questions about it.")] = 24,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of *.txt to make the document from; default: a shipped novel."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder to store in; default: a temporary one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the document.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prefill a document, store its KV cache at every level, load it elsewhere, ask questions."""
    with tempfile.TemporaryDirectory() as scratch, progress_bar(quiet=as_json) as progress:
        task = progress.add_task("prefill and encode", total=None)
        folder = store or Path(scratch) / "store"
        job, written = _write(
            model, profile, data, folder, num_tokens=tokens, num_questions=questions, seed=seed
        )
        progress.update(task, description="load in a new process and answer")
        read = _read_in_new_process(job, Path(scratch) / "job.json")
    result = _combine(job, written, read)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _write(
    model: Path | None,
    profile: Path | None,
    data: Path | None,
    folder: Path,
    *,
    num_tokens: int,
    num_questions: int,
    seed: int,
) -> tuple[Job, dict[str, dict[str, Any]]]:
    """Prefill and save; sizes and encoding times per level."""
    from cachegen import refmodel
    from cachegen.cli.models import load_model
    from cachegen.codec.levels import FIXED_LEVELS
    from cachegen.codec.profile import read_profile
    from cachegen.engines.transformers import capture, fingerprint
    from cachegen.store import open_store
    from cachegen.stream.saver import save

    model = model or refmodel.weights_path()
    profile = profile or refmodel.profile_path()
    network, tokenizer = load_model(model)
    known = read_profile(profile)
    filler = refmodel.read_texts(data) if data else refmodel.load_text("heldout-chesterton")
    document = refmodel.generate(
        "passkey",
        num_tokens=num_tokens,
        seed=seed,
        count_tokens=lambda piece: len(tokenizer(piece, add_special_tokens=False).input_ids),
        filler=filler,
        num_questions=num_questions,
    )
    ids = tokenizer(document.context).input_ids
    rest = tokenizer(filler[-4000:], add_special_tokens=False).input_ids[:CONTINUATION_TOKENS]
    kv = capture(network, ids)
    levels = [level.name for level in known.levels + FIXED_LEVELS]
    manifest = save(
        kv,
        tokens=ids,
        store=open_store(str(folder)),
        profile=known,
        levels=levels,
        chunk_tokens=CHUNK_TOKENS,
        fingerprint=fingerprint(network),
    )
    written = {name: {"bytes": 0, "encode_s": _encode_s(kv, ids, known, name)} for name in levels}
    for chunk in manifest.chunks:
        for stored in chunk.objects:
            written[stored.level]["bytes"] += stored.size_bytes
    job = Job(
        model=str(model),
        profile=str(profile),
        store=str(folder),
        tokens=ids,
        continuation=rest,
        prompts=[question.prompt for question in document.questions],
        answers=[question.answer for question in document.questions],
        levels=levels,
    )
    return job, written


def _encode_s(kv: KVCache, tokens: list[int], profile: Profile, level: str) -> float:
    from cachegen.bitstream.chunk import encode

    times = []
    for _ in range(_ENCODE_REPEATS):
        began = time.perf_counter()
        for first in range(0, kv.num_tokens, CHUNK_TOKENS):
            stop = min(first + CHUNK_TOKENS, kv.num_tokens)
            part = kv.slice(first, stop)
            encode(part, tokens=tokens[first:stop], profile=profile, level=level)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _read_in_new_process(job: Job, path: Path) -> dict[str, Any]:
    path.write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "cachegen.cli.demo_reader", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the reading process failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _combine(job: Job, written: dict[str, dict[str, Any]], read: dict[str, Any]) -> dict[str, Any]:
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


def _show(result: dict[str, Any]) -> None:
    rows = [
        [
            level["name"] + (" *" if level["name"] == result["default_level"] else ""),
            f"{level['bytes']:,}",
            f"{level['bits_per_value']:.2f}",
            f"{level['ratio_fp16']:.1f}x",
            f"{level['ratio_int8']:.1f}x",
            f"{1e3 * level['encode_s']:.1f}",
            f"{1e3 * level['load_s']:.1f}",
            f"{level['kl']:.5f}",
            f"{level['answers_correct']:.0%}",
            f"{level['answers_equal']:.0%}",
        ]
        for level in result["levels"]
    ]
    columns = ["level", "bytes", "bits/value", "vs fp16", "vs int8", "encode ms", "load ms", "KL"]
    title = (
        f"{result['context_tokens']} tokens, {result['questions']} questions; "
        f"prefill {1e3 * result['prefill_s']:.0f} ms, "
        f"answers without a stored cache {result['answers_correct']:.0%} correct (* default level)"
    )
    print_table(title, [*columns, "correct", "same answer"], rows)
