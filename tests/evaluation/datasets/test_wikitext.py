"""Articles and what follows in them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachegen.evaluation.datasets import wikitext
from cachegen.evaluation.datasets.dataset import Request
from cachegen.evaluation.texts import WIKITEXT, articles, parted

Requests = Callable[..., Request]


def test_articles_that_nothing_is_learned_from_go_on_in_the_next_ones(
    request_of: Requests, tokenizer: Any, data: Path
) -> None:
    cases = wikitext.DATASET.load(request_of(count=9))
    learned = texts_of_wikitext(data)
    found = [case.name.partition(" ")[2] for case in cases]
    assert 3 <= len(found) <= 6 and len(set(found)) == len(found)
    following = [*found, *found]
    for index, case in enumerate(cases):
        assert (len(case.context), len(case.following)) == (344, 256)
        read = tokenizer.decode((*case.context[1:], *case.following))
        headings = re.findall(r"^ = (Article \d+) = $", read, re.MULTILINE)
        assert headings == following[index : index + len(headings)]
        assert not any(f"= {heading} =" in learned for heading in headings)


def texts_of_wikitext(data: Path) -> str:
    """What profiles learn from: the first three quarters."""
    pieces = articles(data / WIKITEXT)
    random.Random("wikitext").shuffle(pieces)
    whole = parted(pieces, len)
    return whole[: len(whole) * 3 // 4 - 9]


def test_fewer_are_spread(request_of: Requests) -> None:
    every = [case.name for case in wikitext.DATASET.load(request_of(count=9))]
    names = [case.name for case in wikitext.DATASET.load(request_of(count=2))]
    assert names == [every[0], every[len(every) // 2]]


@pytest.mark.parametrize("room", (257, 50_000))
def test_contexts_that_the_file_cannot_fill(room: int, request_of: Requests) -> None:
    with pytest.raises(ValueError, match=r"wikitext2_valid.txt .*; got .* leave wikitext out"):
        wikitext.DATASET.load(request_of(context_tokens=room))
