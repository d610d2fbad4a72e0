"""Prompts of a model about a document: they begin alike and end in different questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cachegen import refmodel

QUESTIONS = (
    "For which system was the curses library originally written?",
    "What is the name of the ported version of the curses module for Windows?",
    "In which order are coordinates passed in curses?",
    "What does the curses.wrapper function do?",
    "Which color pair cannot be changed, and which colors is it hard-wired to?",
)
GENERAL_QUESTIONS = (
    "What is this text about? Answer in one sentence.",
    "Which names or terms are the most important ones in it?",
    "What does the last part of it say?",
)
_TEXT, _STOP = "heldout-python", "In this primer,"
# Questions that nobody asks: the tokens that these share with the real ones any question shares.
_OTHERS = ("A", "zero", "7")
# Of the document's tokens. Arbitrary: 0.5 to 0.99 do; a template may merge a few tokens at its end.
_LEAST_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Prompts:
    """A document and questions as tokens.

    Attributes:
        context: what every prompt begins with, the document in it.
        ends: for each question, the tokens that follow the context.
        is_chat: whether the model's chat template made them.
    """

    context: list[int]
    ends: list[list[int]]
    is_chat: bool


def shipped_document() -> str:
    """An introduction to programming with curses, of Python's documentation: 3,400 tokens or so."""
    text = refmodel.load_text(_TEXT)
    return text[: text.index(_STOP)].strip()


def shorten(document: str, num_tokens: int | None, tokenizer: Any) -> str:
    """The document's first tokens, or all of it.

    Raises:
        ValueError: no token is left.
    """
    if num_tokens is not None:
        ids = tokenizer(document, add_special_tokens=False).input_ids[: max(num_tokens, 0)]
        whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        document = whole.rstrip("\N{REPLACEMENT CHARACTER}")
    if not document.strip():
        raise ValueError("expected a document with some text, got none; give another, or --tokens")
    return document


def make_prompts(document: str, questions: Sequence[str], tokenizer: Any) -> Prompts:
    """Every question after the document, divided where they begin to differ.

    Raises:
        ValueError: the chat template puts the question before the document.
    """
    is_chat = bool(tokenizer.chat_template)
    render = _chat if is_chat else _plain
    whole = [render(document, question, tokenizer) for question in questions]
    others = [render(document, question, tokenizer) for question in _OTHERS]
    shared = _num_shared([*whole, *others])
    needed = len(tokenizer(document, add_special_tokens=False).input_ids)
    if shared < _LEAST_SHARE * needed:
        raise ValueError(
            f"expected a chat template that repeats the document of {needed} tokens before the "
            f"question, prompts of this one have {shared} tokens in common; nothing can be stored"
        )
    return Prompts(whole[0][:shared], [ids[shared:] for ids in whole], is_chat)


def _chat(document: str, question: str, tokenizer: Any) -> list[int]:
    said = [{"role": "user", "content": f"{document}\n\n{question}"}]
    encoded = tokenizer.apply_chat_template(
        said, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return [int(token) for token in encoded["input_ids"]]


def _plain(document: str, question: str, tokenizer: Any) -> list[int]:
    from cachegen.engines.transformers import first_tokens

    text = f"{document}\n\n{question}\nAnswer:"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [*first_tokens(tokenizer), *map(int, ids)]


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    for index, column in enumerate(zip(*rows, strict=False)):
        if len(set(column)) > 1:
            return index
    return min(map(len, rows))
