"""Prompts divided where the question begins: what is stored begins every one of them."""

from typing import Any

import pytest

from cachegen import refmodel
from cachegen.cli.demo.prompts import (
    GENERAL_QUESTIONS,
    QUESTIONS,
    make_prompts,
    shipped_document,
    shorten,
)
from cachegen.cli.models import load_tokenizer
from cachegen.engines.transformers import first_tokens

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
DOCUMENT = "Ann went to Rome. Ben went to Oslo, and nobody knows why he did."
ASKED = ("Where did Ann go?", "Where did Ben go?")


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer(refmodel.weights_path())


def test_a_chat_template_puts_the_document_into_what_is_stored(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    prompts = make_prompts(DOCUMENT, ASKED, tokenizer)
    assert prompts.is_chat
    stored = tokenizer.decode(prompts.context)
    assert stored.startswith(f"[user]\n{DOCUMENT}")
    assert "Where" not in stored
    for question, end in zip(ASKED, prompts.ends, strict=True):
        said = [{"role": "user", "content": tokenizer.decode([*prompts.context, *end])}]
        assert said[0]["content"].endswith(f"{question}\n[assistant]\n")
        others = make_prompts(DOCUMENT, [question], tokenizer)
        assert [*others.context, *others.ends[0]] == [*prompts.context, *end]
    assert make_prompts(DOCUMENT, ASKED[:1], tokenizer).context == prompts.context


def test_a_model_without_a_template_is_asked_in_plain_text(tokenizer: Any) -> None:
    prompts = make_prompts(DOCUMENT, ASKED, tokenizer)
    assert not prompts.is_chat
    first = first_tokens(tokenizer)
    assert tuple(prompts.context[: len(first)]) == first
    assert tokenizer.decode(prompts.context[len(first) :]).startswith(DOCUMENT)
    assert tokenizer.decode(prompts.ends[1]).endswith("Where did Ben go?\nAnswer:")


def test_a_template_that_repeats_nothing_before_the_question_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'][::-1] }}"
    with pytest.raises(ValueError, match="expected a chat template that repeats the document of"):
        make_prompts(DOCUMENT, ASKED, tokenizer)


def test_a_document_is_shortened_by_tokens(tokenizer: Any) -> None:
    short = shorten(DOCUMENT, 8, tokenizer)
    assert DOCUMENT.startswith(short)
    assert len(tokenizer(short, add_special_tokens=False).input_ids) == 8
    assert shorten(DOCUMENT, None, tokenizer) == DOCUMENT
    for text, length in ((DOCUMENT, 0), (" \n", None)):
        with pytest.raises(ValueError, match="expected a document with some text, got none"):
            shorten(text, length, tokenizer)


@pytest.mark.parametrize(
    "answer", ["BSD Unix", "UniCurses", "y,x", "initializations", "hard-wired"]
)
def test_the_shipped_document_answers_its_questions(answer: str) -> None:
    assert answer in shipped_document()
    assert len(shipped_document()) > 12_000
    assert len(QUESTIONS) == 5
    assert len(GENERAL_QUESTIONS) == 3
