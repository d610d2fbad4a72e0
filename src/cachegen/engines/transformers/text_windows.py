"""Pieces of text that quality is measured on: contexts, and what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from cachegen.engines.transformers.inputs import Tokens, token_ids
from cachegen.engines.transformers.tasks import Task, questions_answered

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of text for measuring quality.

    Attributes:
        context: tokens whose cache is coded.
        continuation: the tokens that follow. Each but the last is read on top of the context,
            each but the first is predicted.
        answers: which of the predicted tokens belong to answers; empty where none do.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    answers: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if self.answers and len(self.answers) != len(self.continuation) - 1:
            raise ValueError(
                f"expected one mark for each of {len(self.continuation) - 1} predicted tokens, "
                f"got {len(self.answers)}"
            )


def spread(
    texts: Sequence[Tokens], *, num_tokens: int, count: int, stride: int | None = None
) -> list[tuple[int, ...]]:
    """Pieces of `num_tokens` tokens, spread evenly over texts of any length.

    Pieces start at least `stride` tokens apart; they do not overlap where it is None.

    Raises:
        ValueError: the texts are too short for so many pieces.
    """
    pieces = [
        (ids, start)
        for ids in map(token_ids, texts)
        for start in range(0, len(ids) - num_tokens + 1, stride or num_tokens)
    ]
    if count < 1 or len(pieces) < count:
        raise ValueError(
            f"expected text for {count} pieces of {num_tokens} tokens, got enough for "
            f"{len(pieces)}; give more text or ask for fewer or shorter pieces"
        )
    return [ids[start : start + num_tokens] for ids, start in evenly(pieces, count)]


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most so many of them, evenly spread."""
    few = min(count, len(items))
    return [items[index * len(items) // few] for index in range(few)]


def cut_windows(
    texts: Sequence[Tokens],
    *,
    num_tokens: int,
    continuation_tokens: int = 128,
    count: int,
    prefix: Sequence[int] = (),
    overlap: bool = False,
) -> list[Window]:
    """Windows spread evenly over the texts.

    Args:
        texts: held-out text.
        num_tokens: tokens of a context, its prefix included.
        continuation_tokens: tokens predicted after each context.
        count: windows.
        prefix: token ids put before every context.
        overlap: whether contexts may share text, which needs less of it. Continuations never do.
    """
    body, following = num_tokens - len(prefix), continuation_tokens + 1
    stride = following if overlap else None
    pieces = spread(texts, num_tokens=body + following, count=count, stride=stride)
    return [Window((*prefix, *piece[:body]), piece[body:]) for piece in pieces]


def answer_window(
    task: Task, tokenizer: PreTrainedTokenizerBase, *, continuation_tokens: int = 128
) -> Window:
    """A window whose continuation is the task's questions with their answers.

    Fewer tokens are predicted where the questions hold no more.
    """
    ids, marks = questions_answered(task, tokenizer)
    following = continuation_tokens + 1
    return Window(task.context, ids[:following], marks[1:following])
