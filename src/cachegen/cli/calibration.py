"""`calibrate`: a profile for a model, from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cachegen.cli.models import load_model
from cachegen.cli.output import print_json, print_table, progress_bar


def calibrate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model.")],
    text: Annotated[
        list[Path], typer.Option(help="Text files like what will be coded; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write.")],
    preset: Annotated[str, typer.Option(help="plain or paper.")] = "plain",
    context_tokens: Annotated[int, typer.Option(help="Tokens of a sample context.")] = 1536,
    num_samples: Annotated[int, typer.Option(help="Contexts to learn from.")] = 24,
    num_windows: Annotated[int, typer.Option(help="Contexts to measure quality on.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Calibrate: learn statistics from text and place the levels by measured quality.

    The first part of every file is learned from, the last quarter measured on.
    """
    from cachegen.codec.calibrate import calibrate as run
    from cachegen.engines import transformers as engine

    network, tokenizer = load_model(model)
    learn, measure = [], []
    for path in text:
        ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False).input_ids
        cut = len(ids) * 3 // 4
        learn.append(ids[:cut])
        measure.append(ids[cut:])
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task("reference runs", total=None)
        windows = engine.cut_windows(measure, num_tokens=context_tokens, count=num_windows)
        profile = run(
            lambda: engine.samples(network, learn, num_tokens=context_tokens, count=num_samples),
            evaluate=engine.evaluator(network, windows),
            fingerprint=engine.fingerprint(network),
            rope=engine.rope_map(network),
            preset=preset,
            notes={"texts": ", ".join(path.name for path in text), "samples": str(num_samples)},
            progress=lambda message: progress.update(task, description=message),
        )
    output.write_bytes(profile.file_bytes)
    _show(output, as_json=as_json)


def _show(profile_path: Path, *, as_json: bool) -> None:
    from cachegen.cli.explain import explain_profile

    fields = explain_profile(profile_path.read_bytes())
    if as_json:
        print_json(fields)
        return
    rows = [
        [level["name"], *(str(level[key]) for key in ("step", "kl", "rel_ppl", "top1"))]
        for level in fields["levels"]
    ]
    print_table(
        f"{profile_path}: default level {fields['default_level']}, {fields['bytes']:,} bytes",
        ["level", "step", "KL", "perplexity", "top-1"],
        rows,
    )
