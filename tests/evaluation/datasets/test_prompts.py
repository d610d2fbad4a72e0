"""Prompts as tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets.dataset import Request
from cachegen.evaluation.datasets.prompts import (
    Prompt,
    Wrapping,
    num_tokens,
    split_tokens,
    template_or,
    to_case,
)
from tests.evaluation.datasets.conftest import TEMPLATE, prose

PROMPT = Prompt(prose(300, seed=1), "\n\nWho came?\nAnswer:", ("her",))


def case_of(prompt: Prompt, request: Request) -> Case:
    return to_case(prompt, request, dataset="d", name="n", score="f1", most_new_tokens=8)


def test_both_parts_are_the_whole_text(tokenizer: Any) -> None:
    """Where a token would span the two, it is the question's."""
    prompt = Prompt("She was un", "happy.", ("",), opening="So", wrapping=Wrapping("<", ">"))
    context, question = split_tokens(prompt, tokenizer)
    assert [*context, *question] == tokenizer("<She was unhappy.> So").input_ids
    assert tokenizer.decode(question).endswith("happy.> So")
    assert num_tokens(prompt, tokenizer) == len(context) + len(question)


@pytest.mark.parametrize(
    ("tail", "opening", "end"),
    (
        ("", "So", "?So"),
        ("\n", "So", "?\nSo"),
        (" ASSISTANT:", "So", "? ASSISTANT: So"),
        (" ASSISTANT:", "", "? ASSISTANT:"),
    ),
)
def test_openings_stand_apart(tail: str, opening: str, end: str, tokenizer: Any) -> None:
    prompt = Prompt("Who came", "?", ("her",), opening=opening, wrapping=Wrapping(tail=tail))
    assert tokenizer.decode(split_tokens(prompt, tokenizer)[1]) == end


def test_the_middle_is_cut(request_of: Callable[..., Request]) -> None:
    whole = case_of(PROMPT, request_of(context_tokens=5000))
    tokens = len(whole.context) + len(whole.question)
    assert case_of(PROMPT, request_of(context_tokens=tokens)) == whole
    for room in (tokens - 1, 101):
        cut = case_of(PROMPT, request_of(context_tokens=room))
        ids, all_ids = cut.context + cut.question, whole.context + whole.question
        assert cut.question == whole.question
        assert len(ids) == room
        assert ids[: room // 2] == all_ids[: room // 2]
        assert ids[room // 2 :] == all_ids[room // 2 - room :]


def test_a_question_needs_less_than_half_of_the_room(request_of: Callable[..., Request]) -> None:
    asked = len(case_of(PROMPT, request_of()).question)
    assert len(case_of(PROMPT, request_of(context_tokens=2 * asked)).context) == asked
    with pytest.raises(ValueError, match=f"n has {asked} tokens.* leave d out"):
        case_of(PROMPT, request_of(context_tokens=2 * asked - 1))


def test_a_template_is_cut_around_the_message(tokenizer: Any, chat_tokenizer: Any) -> None:
    plain = Wrapping("USER: ", " ASSISTANT:")
    assert template_or(plain, tokenizer) is plain
    found = template_or(plain, chat_tokenizer)
    assert found == Wrapping("<|bos|>[user] ", " [end] [assistant] ", is_template=True)


def test_dates_and_thoughts_are_left_out_of_templates(
    chat_tokenizer: Any, monkeypatch: Any
) -> None:
    template = "{{ date_string }} {{ enable_thinking }} " + TEMPLATE
    monkeypatch.setattr(chat_tokenizer, "chat_template", template)
    assert template_or(Wrapping(), chat_tokenizer).head.startswith("26 Jul 2024 False <|bos|>")


@pytest.mark.parametrize("times", (0, 2))
def test_a_template_that_is_no_frame_is_refused(
    times: int, chat_tokenizer: Any, monkeypatch: Any
) -> None:
    template = "{{ messages[0]['content'] }} " * times
    monkeypatch.setattr(chat_tokenizer, "chat_template", template or "hello")
    with pytest.raises(ValueError, match=f"once, got it {times} times"):
        template_or(Wrapping(), chat_tokenizer)
