"""Passkeys: four-digit numbers under names, hidden in a novel, one of which is asked for."""

from __future__ import annotations

import random

from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.prompts import (
    Prompt,
    Wrapping,
    ids,
    num_tokens,
    template_or,
    to_case,
)
from cachegen.refmodel import generate, load_text

_NAME = "passkey"
# A novel that no profile learns from.
_FILLER = "heldout-chesterton"
# Passkeys in a text; the others are what a model could take for the right one. Arbitrary.
_NUM_FACTS = 8
# Four digits, at most one token each, and some words around them.
_NEW_TOKENS = 16
# A seed of a case is drawn below this. Arbitrary.
_SEEDS = 2**32


def _load(request: Request) -> list[Case]:
    filler = load_text(_FILLER)
    return [_case(request, f"{request.seed}-{index:03}", filler) for index in range(request.count)]


def _case(request: Request, name: str, filler: str) -> Case:
    task = generate(
        _NAME,
        num_tokens=request.context_tokens - _fixed_tokens(request),
        seed=random.Random(f"{_NAME}/{name}").randrange(_SEEDS),
        count_tokens=lambda text: len(ids(text, request.tokenizer)),
        filler=filler,
        num_questions=_NUM_FACTS,
    )
    asked = task.questions[0]
    return to_case(
        _prompt(request, task.context, asked.prompt.strip(), asked.answer),
        request,
        dataset=_NAME,
        name=name,
        score="number",
        most_new_tokens=_NEW_TOKENS,
    )


def _prompt(request: Request, context: str, opening: str, answer: str) -> Prompt:
    """The answer is opened in the text's own words, so that small models go on with the number."""
    name = opening.removeprefix("The passkey of ").removesuffix(" is")
    return Prompt(
        context,
        f"\n\nWhat is the passkey of {name}?",
        (answer,),
        opening=opening,
        wrapping=template_or(Wrapping(tail="\n"), request.tokenizer),
    )


def _fixed_tokens(request: Request) -> int:
    """Of what is written around the text, about a name of one token."""
    prompt = _prompt(request, "", "The passkey of house is", "0000")
    return num_tokens(prompt, request.tokenizer)


DATASET = Dataset(_NAME, (), _load)
