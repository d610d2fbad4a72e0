"""Prompts as a model reads them: in its chat template, cut to its room, split in two.

A context is what a cache would be kept of; the question is what is read behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from cachegen.engines.transformers.tasks import first_tokens
from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Request

# Stands for the prompt while a chat template is tried; no template has it.
_PLACE = "CACHEGEN-PROMPT"
# Of templates that would write today's date, or let the model think at length before it answers.
_TEMPLATE_OPTIONS = {"date_string": "26 Jul 2024", "enable_thinking": False}


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What is written around a prompt.

    Attributes:
        head: before it.
        tail: behind it, before the answer.
        is_template: whether it is the model's chat template, which writes first tokens itself.
    """

    head: str = ""
    tail: str = ""
    is_template: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its answers.

    Attributes:
        context: the text whose cache is coded.
        question: the text behind it.
        answers: of which one is right.
        opening: what the answer begins with, given to the model.
        wrapping: around context and question.
    """

    context: str
    question: str
    answers: tuple[str, ...]
    opening: str = ""
    wrapping: Wrapping = field(default_factory=Wrapping)


def template_or(plain: Wrapping, tokenizer: PreTrainedTokenizerBase) -> Wrapping:
    """The chat template around one message of the user's; `plain` where there is no template.

    Raises:
        ValueError: the template does not write a message as it is, once.
    """
    if not tokenizer.chat_template:
        return plain
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACE}],
        tokenize=False,
        add_generation_prompt=True,
        **_TEMPLATE_OPTIONS,
    )
    parts = text.split(_PLACE)
    if len(parts) != 2:
        raise ValueError(
            f"expected a chat template that writes the user's message once, got it "
            f"{len(parts) - 1} times; remove the template from the model's folder to ask without it"
        )
    head, tail = parts
    return Wrapping(head, tail, is_template=True)


def to_case(
    prompt: Prompt,
    request: Request,
    *,
    dataset: str,
    name: str,
    score: str,
    most_new_tokens: int,
) -> Case:
    """A prompt as tokens, cut in the middle where it is longer than the room.

    Raises:
        ValueError: the question takes more than half of the room.
    """
    context, question = split_tokens(prompt, request.tokenizer)
    if 2 * len(question) > request.context_tokens:
        raise ValueError(
            f"expected room for {dataset}'s questions, of which {name} has {len(question)} tokens, "
            f"in half of {request.context_tokens} tokens; give contexts more tokens, or leave "
            f"{dataset} out"
        )
    return Case(
        dataset=dataset,
        name=name,
        context=_without_middle(context, question, num_tokens=request.context_tokens),
        question=question,
        answers=prompt.answers,
        most_new_tokens=most_new_tokens,
        score=score,
    )


def split_tokens(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of the whole prompt: those that its context has too, and the others."""
    around = prompt.wrapping
    first = () if around.is_template else first_tokens(tokenizer)
    before = around.head + prompt.context
    text = before + prompt.question + _opened(around.tail, prompt.opening)
    whole, alone = (*first, *ids(text, tokenizer)), (*first, *ids(before, tokenizer))
    same = _same_tokens(whole, alone)
    return whole[:same], whole[same:]


def ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of a text without first ones, however many: they are cut before a model reads them."""
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return found


def num_tokens(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the whole prompt."""
    return sum(map(len, split_tokens(prompt, tokenizer)))


def _opened(tail: str, opening: str) -> str:
    """What the answer begins with, a space behind the tail where that ends with none."""
    needs_space = tail and opening and not tail[-1].isspace()
    return f"{tail} {opening}" if needs_space else tail + opening


def _same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    same = [a == b for a, b in zip(one, other, strict=False)]
    return [*same, False].index(False)


def _without_middle(
    context: tuple[int, ...], question: tuple[int, ...], *, num_tokens: int
) -> tuple[int, ...]:
    """LongBench's cut: of context and question, half of the room from either end is left."""
    if len(context) + len(question) <= num_tokens:
        return context
    front = num_tokens // 2
    back = num_tokens - front - len(question)
    return context[:front] + context[len(context) - back :]
