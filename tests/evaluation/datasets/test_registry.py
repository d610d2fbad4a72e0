"""What holds for every dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.case import Case
from cachegen.evaluation.datasets import load, missing_files, names
from cachegen.evaluation.scores import SCORES

ROOM = 600
Load = Callable[..., list[Case]]


@pytest.fixture
def cases(data: Path, tokenizer: Any) -> Load:
    def make(name: str, *, count: int = 4, seed: int = 0, tokenizer: Any = tokenizer) -> list[Case]:
        given = {"context_tokens": ROOM, "count": count, "seed": seed}
        return load([name], data, tokenizer, **given)[name]

    return make


def test_the_papers_datasets_come_first() -> None:
    assert names()[:4] == ("longchat", "triviaqa", "narrativeqa", "wikitext")


@pytest.mark.parametrize("name", names())
def test_cases_fit_and_have_names_of_their_own(name: str, cases: Load, tokenizer: Any) -> None:
    found = cases(name)
    assert len(found) == (3 if name in LONGBENCH else 4)
    assert len({case.name for case in found}) == len(found)
    for case in found:
        assert case.dataset == name
        assert len(case.context) + len(case.question) + len(case.following) <= ROOM
        assert case.context[0] == tokenizer.bos_token_id
        assert case.following or case.score in SCORES
        assert case.following or len(case.question) > 4


@pytest.mark.parametrize("name", names())
def test_names_are_of_the_same_cases_in_every_run(name: str, cases: Load) -> None:
    many = {case.name: case for case in cases(name, count=5)}
    assert cases(name, count=5) == list(many.values())
    for case in cases(name, count=2):
        assert many[case.name] == case


@pytest.mark.parametrize("name", ("longchat", "lines", "passkey"))
def test_a_seed_draws_other_cases_under_other_names(name: str, cases: Load) -> None:
    drawn, other = cases(name, count=6, seed=0)[-1], cases(name, count=6, seed=1)[-1]
    assert drawn.name != other.name
    assert drawn.context != other.context


@pytest.mark.parametrize("name", names())
def test_chat_templates(name: str, cases: Load, chat_tokenizer: Any) -> None:
    """Base text, code and examples with answers are not put as a user's message."""
    case = cases(name, count=1, tokenizer=chat_tokenizer)[0]
    head = chat_tokenizer.decode(case.context).startswith("<|bos|>[user] ")
    tail = "[end] [assistant] " in chat_tokenizer.decode(case.question)
    assert head == tail == (name not in ("triviaqa", "lcc", "wikitext"))
    assert case.context.count(chat_tokenizer.bos_token_id) == 1


def test_an_unknown_name_lists_the_known(data: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="'squad'; there are longchat, triviaqa, narrativeqa"):
        load(["squad"], data, tokenizer, context_tokens=ROOM, count=1, seed=0)


def test_all_missing_files_are_named(tmp_path: Path, data: Path, tokenizer: Any) -> None:
    folder = tmp_path / "part"
    shutil.copytree(data, folder)
    (folder / "longbench" / "qasper.jsonl.xz").unlink()
    (folder / "longchat" / "conversations.jsonl").unlink()
    absent = missing_files(names(), folder)
    assert absent == {
        "longchat": ("longchat/conversations.jsonl",),
        "qasper": ("longbench/qasper.jsonl.xz",),
    }
    said = (
        r"lacks longchat/conversations.jsonl \(without which no longchat\); "
        r"longbench/qasper.jsonl.xz \(without which no qasper\).* leave longchat, qasper out"
    )
    with pytest.raises(ValueError, match=said):
        load(names(), folder, tokenizer, context_tokens=ROOM, count=1, seed=0)


def test_passkeys_need_no_data(tmp_path: Path, tokenizer: Any) -> None:
    found = load(["passkey"], tmp_path, tokenizer, context_tokens=ROOM, count=1, seed=0)
    assert len(found["passkey"]) == 1


LONGBENCH = ("triviaqa", "narrativeqa", "qasper", "multifieldqa", "lcc")
