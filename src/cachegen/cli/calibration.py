"""`calibrate`: a profile for a model, from text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.models import load_model
from cachegen.cli.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from cachegen.codec.profile import Profile
    from cachegen.engines.transformers import Task, Window

_CONTINUATION_TOKENS = 128
_MOST_FEATURES = 1024
_TASKS = "tasks"


def calibrate(
    model: Annotated[Path, typer.Option(help="Folder of a transformers model.")],
    text: Annotated[
        list[str],
        typer.Option(help="[NAME=]FILE of text like what will be coded; repeatable."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write.")],
    tasks: Annotated[
        Path | None,
        typer.Option(help='Questions: lines of {"context": ..., "prompt": ..., "answer": ...}.'),
    ] = None,
    preset: Annotated[str, typer.Option(help="transform, plain or paper.")] = "transform",
    max_profile_mb: Annotated[float, typer.Option(help="Largest profile of transform.")] = 64.0,
    context_tokens: Annotated[int, typer.Option(help="Tokens of a sample context.")] = 1536,
    num_samples: Annotated[int, typer.Option(help="Contexts to learn from.")] = 48,
    num_windows: Annotated[int, typer.Option(help="Contexts a domain to measure on.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Calibrate: learn from text and place the levels by measured quality.

    Every file is a domain, and a level is as good as in its worst. The first three quarters of
    every file are learned from, the last quarter is measured on.
    """
    network, tokenizer = load_model(model)
    texts = {name: _token_ids(path, tokenizer) for name, path in map(_named, text)}
    asked = _read_tasks(tasks, tokenizer) if tasks else []
    sizes = _Sizes(context_tokens, num_samples, num_windows)
    if preset == "transform":
        _announce(network, sizes, max_profile_mb=max_profile_mb)
    with progress_bar(quiet=as_json) as progress:
        shown = progress.add_task("reference runs", total=None)
        profile = _run(
            network,
            tokenizer,
            material=_divide(texts, asked, tokenizer, sizes),
            sizes=sizes,
            preset=preset,
            max_profile_mb=max_profile_mb,
            progress=lambda message: progress.update(shown, description=message),
        )
    output.write_bytes(profile.file_bytes)
    _show(output, as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Sizes:
    context_tokens: int
    num_samples: int
    num_windows: int


@dataclass(frozen=True, slots=True)
class _Material:
    """Texts as tokens to learn from; by domain, windows and tasks to measure on."""

    learned: list[Sequence[int]]
    windows: dict[str, list[Window]]
    tasks: list[Task]


def _announce(network: Any, sizes: _Sizes, *, max_profile_mb: float) -> None:
    """Print what learning will cost, on standard error."""
    from cachegen.codec.sizing import describe_plans
    from cachegen.engines import transformers as engine

    vocabulary = network.get_input_embeddings().num_embeddings
    geometry = engine.capture(network, [0]).geometry
    passes = sizes.num_samples * (sizes.context_tokens + 3 * _CONTINUATION_TOKENS) + 2 * vocabulary
    flop = 2 * network.num_parameters() * passes
    print(f"the model's own passes: about {flop / 1e12:.2f} TFLOP", file=sys.stderr)
    shape = (vocabulary, _MOST_FEATURES)
    for line in describe_plans(geometry, shape, max_profile_mb=max_profile_mb):
        print(line, file=sys.stderr)


def _run(
    network: Any,
    tokenizer: Any,
    *,
    material: _Material,
    sizes: _Sizes,
    preset: str,
    max_profile_mb: float,
    progress: Callable[[str], None],
) -> Profile:
    from cachegen.codec.calibrate import calibrate as run
    from cachegen.engines import transformers as engine

    prefix, learns = engine.first_tokens(tokenizer), preset == "transform"
    return run(
        lambda: engine.samples(
            network,
            material.learned,
            num_tokens=sizes.context_tokens,
            count=sizes.num_samples,
            continuation_tokens=_CONTINUATION_TOKENS if learns else 0,
            prefix=prefix,
        ),
        evaluate=engine.evaluator(network, material.windows, material.tasks, tokenizer=tokenizer),
        fingerprint=engine.fingerprint(network),
        rope=engine.rope_map(network),
        preset=preset,
        token_features=engine.token_features(network, prefix=prefix, max_features=_MOST_FEATURES)
        if learns
        else None,
        max_profile_mb=max_profile_mb,
        notes={"texts": ", ".join(material.windows), "samples": str(sizes.num_samples)},
        progress=progress,
    )


def _divide(
    texts: dict[str, list[int]], tasks: list[Task], tokenizer: Any, sizes: _Sizes
) -> _Material:
    """The first three quarters of every text and of the tasks to learn from, the rest apart."""
    from cachegen.engines import transformers as engine

    windows = {
        name: engine.cut_windows(
            [ids[_cut(ids) :]],
            num_tokens=sizes.context_tokens,
            continuation_tokens=_CONTINUATION_TOKENS,
            count=sizes.num_windows,
            prefix=engine.first_tokens(tokenizer),
            overlap=True,
        )
        for name, ids in texts.items()
    }
    learned: list[Sequence[int]] = [ids[: _cut(ids)] for ids in texts.values()]
    learned += [engine.task_text(task, tokenizer) for task in tasks[: _cut(tasks)]]
    measured = tasks[_cut(tasks) :]
    if measured:
        shown = measured[: sizes.num_windows]
        windows[_TASKS] = [engine.answer_window(task, tokenizer) for task in shown]
    return _Material(learned, windows, measured)


def _cut(items: Sequence[Any]) -> int:
    return len(items) * 3 // 4


def _named(text: str) -> tuple[str, Path]:
    """`NAME=FILE`, or a file that gives its own name."""
    name, found, path = text.partition("=")
    name, path = (name, path) if found else (Path(text).stem, text)
    if not name or name == _TASKS:
        raise ValueError(f"expected a name other than {_TASKS!r} for {path}; give NAME=FILE")
    return name, Path(path)


def _token_ids(path: Path, tokenizer: Any) -> list[int]:
    ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    return [int(token) for token in ids]


def _read_tasks(path: Path, tokenizer: Any) -> list[Task]:
    """Tasks of a JSONL file; lines of the same context are one task.

    Raises:
        ValueError: a line that is no such object.
    """
    from cachegen.engines import transformers as engine

    questions: dict[str, list[tuple[str, str]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            context, prompt, answer = (str(entry[key]) for key in ("context", "prompt", "answer"))
        except (ValueError, LookupError, TypeError) as exc:
            expected = 'an object with "context", "prompt" and "answer"'
            raise ValueError(f"{path}, line {number}: expected {expected}, got {exc!r}") from exc
        questions.setdefault(context, []).append((prompt, answer))
    return [
        engine.task_from_text(_TASKS, context, asked, tokenizer=tokenizer)
        for context, asked in questions.items()
    ]


def _show(profile_path: Path, *, as_json: bool) -> None:
    from cachegen.cli.explain import explain_profile

    fields = explain_profile(profile_path.read_bytes())
    if as_json:
        print_json(fields)
        return
    rows = [
        _row(level["name"], domain, quality)
        for level in fields["levels"]
        for domain, quality in level["domains"].items()
    ]
    print_table(
        f"{profile_path}: default level {fields['default_level']}, {fields['bytes']:,} bytes",
        ["level", "domain", "KL", "KL of answers", "perplexity", "top-1", "exact match"],
        rows,
    )


def _row(level: str, domain: str, quality: dict[str, Any]) -> list[str]:
    figures = [str(quality.get(key, "")) for key in ("kl", "answer_kl", "rel_ppl", "top1")]
    exact = ""
    if "exact_match" in quality:
        exact = f"{quality['exact_match']:.3f} of {quality['exact_match_uncompressed']:.3f}"
    return [level, domain, *figures, exact]
