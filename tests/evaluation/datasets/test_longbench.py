"""LongBench's tasks, and the files that they and others are read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.datasets import lcc, multifieldqa, narrativeqa, qasper, triviaqa
from cachegen.evaluation.datasets.dataset import Dataset, Request
from cachegen.evaluation.datasets.files import rows
from tests.evaluation.datasets.conftest import write_rows

Requests = Callable[..., Request]
QUESTIONS = (
    (triviaqa.DATASET, "Question:\nWho came?\nAnswer:\n", "first_line_f1"),
    (narrativeqa.DATASET, "\n\nNow, answer the question based on the story. Question: Who?", "f1"),
    (qasper.DATASET, "\n\nAnswer the question based on the passages.", "f1"),
    (multifieldqa.DATASET, "\n\nNow, answer the following question.", "f1"),
    (lcc.DATASET, "    print(x)\nNext line of code:\n", "code_similarity"),
)


@pytest.mark.parametrize(("dataset", "start", "score"), QUESTIONS)
def test_questions_are_the_ends_of_prompts(
    dataset: Dataset, start: str, score: str, request_of: Requests, tokenizer: Any
) -> None:
    short, long, shortest = dataset.load(request_of(context_tokens=400, count=3))
    for case in (short, long, shortest):
        assert tokenizer.decode(case.question).strip().startswith(start.strip())
        assert case.answers == ("a grey ship", "her")
        assert case.score == score
        assert tokenizer.decode(case.context).startswith("<|bos|>Answer the question")
    assert len(long.context) + len(long.question) == 400
    assert len(shortest.context) < len(short.context) < 390
    assert [case.name for case in dataset.load(request_of(count=2))] == ["000", "001"]


def test_a_prompt_without_its_question_is_refused(request_of: Requests, tmp_path: Path) -> None:
    (tmp_path / "longbench").mkdir()
    for dataset, _, _ in QUESTIONS:
        write_rows(tmp_path / dataset.files[0], [{"prompt": "hello", "answers": ["a"]}])
        said = f"line 1: expected a prompt of {dataset.name}, found no question"
        with pytest.raises(ValueError, match=said):
            dataset.load(request_of(data=tmp_path))


@pytest.mark.parametrize("suffix", (".jsonl", ".jsonl.xz"))
def test_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows(path, [{"a": 1, "b": "é"}, {"a": 2, "b": ""}])
    assert rows(path, keys=("a", "b")) == [{"a": 1, "b": "é"}, {"a": 2, "b": ""}]
    with pytest.raises(ValueError, match=f"rows{suffix}, line 1: c, d not found"):
        rows(path, keys=("a", "c", "d"))


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("", "expected lines in"),
        ('{"a": 1}\n{"a": \n', "line 2: expected an object"),
        ("7\n", "line 1: expected an object"),
    ),
)
def test_other_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        rows(path, keys=("a",))
