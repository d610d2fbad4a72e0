"""Numbers to be found: lines and passkeys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.datasets import lines, passkey
from cachegen.evaluation.datasets.dataset import Request
from tests.evaluation.datasets.conftest import write_rows

Requests = Callable[..., Request]


def numbers(text: str) -> dict[str, str]:
    return dict(re.findall(r"line (.+?): REGISTER_CONTENT is <(\d+)>\n", text))


def asked(question: str) -> str:
    found = re.search(r"in line (.+?)\?", question)
    assert found
    return found[1]


@pytest.mark.parametrize("room", (160, 250, 2000))
def test_the_line_in_question_is_there(room: int, request_of: Requests, tokenizer: Any) -> None:
    cases = lines.DATASET.load(request_of(context_tokens=room, count=8))
    assert [case.name for case in cases[2:4]] == ["published-002", "generated-0-000"]
    for case in cases:
        there = numbers(tokenizer.decode(case.context))
        question = tokenizer.decode(case.question)
        assert case.answers == (there[asked(question)],)
        assert question.endswith(f" Line <{asked(question)}>: <REGISTER_CONTENT> is")
        assert 2 <= len(there) <= (24 if room == 2000 else 12)
        assert len(case.context) + len(case.question) <= room


def test_lines_keep_their_order(request_of: Requests, tokenizer: Any) -> None:
    whole, short = (
        lines.DATASET.load(request_of(context_tokens=room, count=3)) for room in (2000, 200)
    )
    for one, other in zip(whole, short, strict=True):
        all_lines, few = (list(numbers(tokenizer.decode(c.context)).items()) for c in (one, other))
        assert len(all_lines) == 8 > len(few)
        assert few == [line for line in all_lines if line in few]
        assert one.question == other.question


def test_generated_lines_ask_for_any_place(request_of: Requests, tokenizer: Any) -> None:
    cases = lines.DATASET.load(request_of(context_tokens=2000, count=43))[3:]
    places = []
    for case in cases:
        there = list(numbers(tokenizer.decode(case.context)).values())
        assert len(there) == 24
        places.append(there.index(case.answers[0]))
    assert min(places) < 6 and max(places) >= 18


def test_too_little_room_for_lines(request_of: Requests) -> None:
    with pytest.raises(ValueError, match="room for two of the lines, got 100 tokens"):
        lines.DATASET.load(request_of(context_tokens=100))


def test_other_prompts_are_refused(request_of: Requests, tmp_path: Path) -> None:
    (tmp_path / "longchat").mkdir()
    path = tmp_path / "longchat" / "200_lines.jsonl"
    write_rows(path, [{"prompt": "hello", "correct_line": "line a: REGISTER_CONTENT is <1>\n"}])
    with pytest.raises(ValueError, match=r"200_lines.jsonl, line 1: expected a prompt with its"):
        lines.DATASET.load(request_of(data=tmp_path))


def test_the_passkey_in_question_is_there(request_of: Requests, tokenizer: Any) -> None:
    for case in passkey.DATASET.load(request_of(count=5)):
        there = dict(re.findall(r"The passkey of (\w+) is (\d+)\.", tokenizer.decode(case.context)))
        assert len(there) == 8
        question = tokenizer.decode(case.question)
        found = re.fullmatch(r"\s*What is the passkey of (\w+)\?\nThe passkey of \1 is", question)
        assert found
        assert case.answers == (there[found[1]],)
        assert 500 < len(case.context) + len(case.question) <= 600


def test_with_a_template_the_answer_is_begun(request_of: Requests, chat_tokenizer: Any) -> None:
    case = passkey.DATASET.load(request_of(tokenizer=chat_tokenizer, count=1))[0]
    question = chat_tokenizer.decode(case.question)
    assert re.search(r"passkey of (\w+)\? \[end\] \[assistant\] The passkey of \1 is$", question)
