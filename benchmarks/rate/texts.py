"""The text of the rate-quality study: what is learned from, and what is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen import refmodel
from cachegen.codec.calibration.sample import Sample
from cachegen.engines.transformers.learning import samples
from cachegen.engines.transformers.tasks import Task, first_tokens, task_text
from cachegen.engines.transformers.text_windows import Window, cut_windows
from cachegen.refmodel.measure import retrieval_tasks, task_windows

CONTEXT_TOKENS = 1536
CONTINUATION_TOKENS = 128
LEARNED_FROM = ("train-doyle", "train-mason", "train-nesbit", "train-python")
NOVEL, TECHNICAL = "heldout-chesterton", "eval-python"
FILLER = "train-mason"
LEARNED_SEED, MEASURED_SEED = 1000, 9000
QUESTIONS = 24
_LEARNED_TASKS, _LEARNED_QUESTIONS = 16, 32


@dataclass(frozen=True, slots=True)
class Domains:
    """Text that neither calibration nor the placing of levels has seen.

    Attributes:
        windows: by domain, contexts and what follows them.
        tasks: contexts with questions, for exact match.
    """

    windows: dict[str, list[Window]]
    tasks: list[Task]


def domains(
    tokenizer: Any, *, num_windows: int, num_tasks: int, data: Path | None = None
) -> Domains:
    """So many windows of each domain; `data` is a folder of more novels."""
    novels = [refmodel.load_text(NOVEL)]
    if data is not None:
        novels.append(refmodel.read_texts(data))
    tasks = retrieval_tasks(
        tokenizer,
        count=max(num_windows, num_tasks),
        first_seed=MEASURED_SEED,
        filler=novels[0],
        num_tokens=CONTEXT_TOKENS,
        num_questions=QUESTIONS,
    )
    windows = {
        "novels": _cut(tokenizer, novels, num_windows),
        "technical": _cut(tokenizer, [refmodel.load_text(TECHNICAL)], num_windows),
        "tasks": task_windows(
            tokenizer, tasks[:num_windows], continuation_tokens=CONTINUATION_TOKENS
        ),
    }
    return Domains(windows, tasks[:num_tasks])


def learning_samples(
    model: Any, tokenizer: Any, *, count: int, continuation_tokens: int = 0
) -> list[Sample]:
    """Contexts of the text that the shipped profiles are learned from.

    With `continuation_tokens` they carry gradients, as the learned transform needs them.
    """
    tasks = retrieval_tasks(
        tokenizer,
        count=_LEARNED_TASKS,
        first_seed=LEARNED_SEED,
        filler=refmodel.load_text(FILLER),
        num_tokens=CONTEXT_TOKENS,
        num_questions=_LEARNED_QUESTIONS,
    )
    texts = [task_text(task, tokenizer) for task in tasks]
    texts += [token_ids(tokenizer, refmodel.load_text(name)) for name in LEARNED_FROM]
    return list(
        samples(
            model,
            texts,
            num_tokens=CONTEXT_TOKENS,
            count=count,
            continuation_tokens=continuation_tokens,
            prefix=first_tokens(tokenizer),
        )
    )


def token_ids(tokenizer: Any, text: str) -> Sequence[int]:
    """The tokens of a text alone."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def _cut(tokenizer: Any, texts: Sequence[str], count: int) -> list[Window]:
    return cut_windows(
        [token_ids(tokenizer, text) for text in texts],
        num_tokens=CONTEXT_TOKENS,
        continuation_tokens=CONTINUATION_TOKENS,
        count=count,
        prefix=first_tokens(tokenizer),
        overlap=True,
    )
