"""Articles and what follows in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.datasets import wikitext
from cachegen.evaluation.datasets.dataset import Request

Requests = Callable[..., Request]


def test_articles_go_on_in_the_next_ones(request_of: Requests, tokenizer: Any, data: Path) -> None:
    cases = wikitext.DATASET.load(request_of(count=9))
    assert [case.name for case in cases] == [f"{index:02} Article {index}" for index in range(5)]
    text = (data / "text" / "wikitext2_valid.txt").read_text().removeprefix(" \n")
    for index, case in enumerate(cases):
        assert (len(case.context), len(case.following)) == (344, 256)
        read = tokenizer.decode((*case.context[1:], *case.following))
        assert (text + text).startswith(read, text.index(f" = Article {index} = \n"))


def test_fewer_are_spread(request_of: Requests) -> None:
    names = [case.name for case in wikitext.DATASET.load(request_of(count=2))]
    assert names == ["00 Article 0", "02 Article 2"]


@pytest.mark.parametrize("room", (257, 50_000))
def test_contexts_that_the_file_cannot_fill(room: int, request_of: Requests) -> None:
    with pytest.raises(ValueError, match=r"wikitext2_valid.txt; got .* leave wikitext out"):
        wikitext.DATASET.load(request_of(context_tokens=room))
