"""The material of `calibrate`: texts and questions, divided into what is learned and measured.

Material that does not fit is refused here, from tokens alone, before any model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachegen.engines.transformers import Task, Window

# The metric was learned, and levels were measured, over so many tokens in all studies
# (docs/decisions/2026-11-21-transform-codec.md).
CONTINUATION_TOKENS = 128
# Predicted behind a long context. One window of a domain is measured: twice as many tokens halve
# what its mean varies by chance. Arbitrary: 128 to 1,024 do.
LONG_CONTINUATION_TOKENS = 256
_TASKS = "tasks"


@dataclass(frozen=True, slots=True)
class SampleSizes:
    """Amounts of material to learn from and to measure on.

    Attributes:
        context_tokens: of a sample, its prefix included.
        num_samples: contexts to learn from.
        num_windows: contexts of a domain to measure on.
        read_tokens: read behind every sample, for its gradient; 0 where nothing is.
        long_tokens: of the long contexts that the default level is measured on; 0 for none.
    """

    context_tokens: int
    num_samples: int
    num_windows: int
    read_tokens: int = CONTINUATION_TOKENS
    long_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Material:
    """Texts as tokens to learn from; by domain, windows and tasks to measure on.

    Domains whose held-out text is too short have no long window.
    """

    learned: list[Sequence[int]]
    windows: dict[str, list[Window]]
    tasks: list[Task]
    long_windows: dict[str, list[Window]] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 of all tokens, names and answers, in their order."""
        windows, long = (
            [(name, [asdict(one) for one in own]) for name, own in found.items()]
            for found in (self.windows, self.long_windows)
        )
        whole = [self.learned, windows, [asdict(task) for task in self.tasks], long]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


def read_material(
    texts: Sequence[str],
    tasks: Path | None,
    tokenizer: Any,
    sizes: SampleSizes,
    *,
    tell: Callable[[str], None] = _warn,
) -> Material:
    """Read and divide.

    Args:
        texts: `[NAME=]FILE` each.
        tasks: JSONL of questions, or None.
        tokenizer: of the model.
        sizes: what is wanted of the texts.
        tell: told what will not be as asked for; by default standard error is.

    Raises:
        ValueError: names that clash, lines that are no questions, or texts too short for the sizes.
        OSError: a file that cannot be read.
    """
    for name in ("context_tokens", "num_samples", "num_windows"):
        number = getattr(sizes, name)
        if number < 1:
            raise ValueError(f"expected --{name.replace('_', '-')} of at least 1, got {number}")
    found: dict[str, list[int]] = {}
    for name, path in map(_named, texts):
        if name in found:
            raise ValueError(f"expected different names, got two texts {name!r}; give NAME=FILE")
        found[name] = _token_ids(path, tokenizer)
    asked = _read_tasks(tasks, tokenizer) if tasks else []
    return _divide(found, asked, tokenizer, sizes, tell=tell)


def _divide(
    texts: dict[str, list[int]],
    tasks: list[Task],
    tokenizer: Any,
    sizes: SampleSizes,
    *,
    tell: Callable[[str], None],
) -> Material:
    """The first three quarters of every text and of the tasks to learn from, the rest apart."""
    from cachegen.engines import transformers as engine
    from cachegen.engines.transformers.learning import sample_pieces

    prefix = engine.first_tokens(tokenizer)
    if sizes.context_tokens <= len(prefix):
        raise ValueError(
            f"expected --context-tokens above the {len(prefix)} tokens put before every text, got "
            f"{sizes.context_tokens}"
        )
    windows = {name: _windows(name, ids, prefix, sizes) for name, ids in texts.items()}
    learned: list[Sequence[int]] = [ids[: _cut(ids)] for ids in texts.values()]
    learned += [engine.task_text(task, tokenizer) for task in tasks[: _cut(tasks)]]
    try:
        sample_pieces(
            learned,
            num_tokens=sizes.context_tokens,
            count=sizes.num_samples,
            continuation_tokens=sizes.read_tokens,
            prefix=prefix,
        )
    except ValueError as exc:
        raise ValueError(f"--num-samples {sizes.num_samples}: {exc}") from exc
    fits = sizes.context_tokens - len(prefix) + sizes.read_tokens
    if tasks and all(len(text) < fits for text in learned[len(texts) :]):
        tell(f"no task to learn from has {fits} tokens: tasks are only measured")
    measured = tasks[_cut(tasks) :]
    if measured:
        shown = measured[: sizes.num_windows]
        windows[_TASKS] = [engine.answer_window(task, tokenizer) for task in shown]
    long = _long_windows(texts, prefix, sizes, tell=tell)
    return Material(learned, windows, measured, long)


def _windows(name: str, ids: list[int], prefix: Sequence[int], sizes: SampleSizes) -> list[Window]:
    """Of the last quarter of a text."""
    from cachegen.engines import transformers as engine

    try:
        return engine.cut_windows(
            [ids[_cut(ids) :]],
            num_tokens=sizes.context_tokens,
            continuation_tokens=CONTINUATION_TOKENS,
            count=sizes.num_windows,
            prefix=prefix,
            overlap=True,
        )
    except ValueError as exc:
        raise ValueError(
            f"text {name!r}, {len(ids)} tokens, --num-windows {sizes.num_windows} in its last "
            f"quarter: {exc}"
        ) from exc


def _long_windows(
    texts: dict[str, list[int]],
    prefix: Sequence[int],
    sizes: SampleSizes,
    *,
    tell: Callable[[str], None],
) -> dict[str, list[Window]]:
    """One of the last quarter of every text that is long enough."""
    from cachegen.engines import transformers as engine

    found: dict[str, list[Window]] = {}
    if not sizes.long_tokens:
        return found
    for name, ids in texts.items():
        held_out = ids[_cut(ids) :]
        if sizes.long_tokens - len(prefix) + LONG_CONTINUATION_TOKENS < len(held_out):
            found[name] = engine.cut_windows(
                [held_out],
                num_tokens=sizes.long_tokens,
                continuation_tokens=LONG_CONTINUATION_TOKENS,
                count=1,
                prefix=prefix,
            )
    if not found:
        tell(
            f"no text has {sizes.long_tokens + LONG_CONTINUATION_TOKENS} tokens in its last "
            f"quarter: levels are measured on contexts of {sizes.context_tokens} tokens only"
        )
    return found


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
        ValueError: a line that is no such object, or no line at all.
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
        if not (context.strip() and prompt.strip() and answer.strip()):
            raise ValueError(
                f"{path}, line {number}: expected texts that are not empty, got {line}"
            )
        questions.setdefault(context, []).append((prompt, answer))
    if not questions:
        raise ValueError(f"{path}: expected at least one question, got none")
    return [
        engine.task_from_text(_TASKS, context, asked, tokenizer=tokenizer)
        for context, asked in questions.items()
    ]
