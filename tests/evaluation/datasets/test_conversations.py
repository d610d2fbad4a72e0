"""Records of conversations: longchat and topics."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.datasets import longchat, topics
from cachegen.evaluation.datasets.conversations import parse, read_records, record_case
from cachegen.evaluation.datasets.dataset import Request
from tests.evaluation.datasets.conftest import TOPICS, VICUNA, conversation, record, write_rows

Requests = Callable[..., Request]


def discussed(text: str) -> list[str]:
    found: list[str] = re.findall(r"end of our discussion on (.+?)\.", text)
    return found


def test_a_published_prompt_is_read_with_and_without_its_wrapping() -> None:
    bare = parse(record(TOPICS), TOPICS[0])
    assert parse(f"{VICUNA}{record(TOPICS)} ASSISTANT:", TOPICS[0]) == bare
    assert bare.conversations == tuple(map(conversation, TOPICS))
    assert bare.header + "".join(bare.conversations) + bare.closing == record(TOPICS)


def test_all_of_it_where_there_is_room(request_of: Requests, tokenizer: Any) -> None:
    request = request_of(context_tokens=2000)
    case = record_case(parse(record(TOPICS), TOPICS[0]), request, dataset="d", name="n")
    text = tokenizer.decode(case.context[1:]) + tokenizer.decode(case.question)
    assert text == f"{VICUNA}{record(TOPICS)} ASSISTANT:"
    assert case.answers == (TOPICS[0],)
    assert tokenizer.decode(case.question).strip().startswith("Now the record ends.")


def test_conversations_in_the_middle_are_left_out(request_of: Requests, tokenizer: Any) -> None:
    whole = parse(record(TOPICS), TOPICS[0])
    kept = []
    for room in range(360, 900, 10):
        case = record_case(whole, request_of(context_tokens=room), dataset="d", name="n")
        text = tokenizer.decode(case.context)
        found = discussed(text)
        assert f"conversation on {len(found)} different topics" in text
        assert text.count("I would like to discuss") == len(found)
        assert (found[0], found[-1]) == (TOPICS[0], TOPICS[-1])
        assert len(case.context + case.question) <= room
        kept.append(len(found))
    assert kept == sorted(kept)
    assert set(kept) == {2, 3, 4}


def test_two_conversations_are_cut_in_the_middle(request_of: Requests, tokenizer: Any) -> None:
    whole = parse(record(TOPICS), TOPICS[0])
    case = record_case(whole, request_of(context_tokens=300), dataset="d", name="n")
    text = tokenizer.decode(case.context)
    assert len(case.context + case.question) == 300
    assert "conversation on 2 different topics" in text
    assert "I would like to discuss the topic of the use of tea." in text
    assert discussed(text) == [TOPICS[-1]]
    with pytest.raises(ValueError, match=r"first conversation of d n, \d+ tokens, got \d+ of 200"):
        record_case(whole, request_of(context_tokens=200), dataset="d", name="n")


def test_published_come_first_then_generated(request_of: Requests, tokenizer: Any) -> None:
    cases = longchat.DATASET.load(request_of(context_tokens=2000, count=8))
    assert [case.name for case in cases] == [
        *(f"published-{index:03}" for index in range(3)),
        *(f"generated-0-{index:03}" for index in range(5)),
    ]
    for case in cases:
        assert discussed(tokenizer.decode(case.context))[0] == case.answers[0]
    assert len({case.answers for case in cases[3:]}) > 1
    assert all(sorted(discussed(tokenizer.decode(c.context))) == sorted(TOPICS) for c in cases[3:])


def test_generated_ones_keep_their_first_topic(request_of: Requests, tokenizer: Any) -> None:
    for case in longchat.DATASET.load(request_of(context_tokens=520, count=8)):
        found = discussed(tokenizer.decode(case.context))
        assert 2 <= len(found) < len(TOPICS)
        assert found[0] == case.answers[0]


def test_fewer_than_published_are_spread_over_both_files(request_of: Requests) -> None:
    cases = topics.DATASET.load(request_of(context_tokens=2000, count=4))
    assert [case.name for case in cases] == ["5-000", "5-001", "10-000", "10-001"]


@pytest.mark.parametrize(
    "prompt",
    ("What is the first topic?", record(TOPICS).replace("Now the record ends.", "")),
)
def test_other_prompts_are_refused(prompt: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_rows(
        path, [{"prompt": record(TOPICS), "label": TOPICS}, {"prompt": prompt, "label": "a"}]
    )
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: expected a record of conversations"):
        read_records(path, topics="label")
