"""Texts whose last quarter was not in the first three."""

import pytest

from cachegen.evaluation import texts
from cachegen.evaluation.texts import CHAT, parted, texts_of
from tests.evaluation.corpus import write_corpus


def count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("seed_sizes", [(100, 30, 77, 50), (10, 300, 100), (5, 5)])
def test_the_last_quarter_begins_where_a_piece_does(seed_sizes):
    pieces = [" ".join([f"w{number}"] * size) for number, size in enumerate(seed_sizes)]
    words = parted(pieces, count).split()
    cut = len(words) * 3 // 4
    shared = set(words[: cut - 1]) & set(words[cut + 1 :])
    assert shared == set()
    assert len(words) > 0.3 * sum(seed_sizes)


def test_one_piece_cannot_be_parted():
    with pytest.raises(ValueError, match="at least two pieces of text, got 1"):
        parted(["alone"], count)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_corpus(folder)
    return folder


def test_every_kind_of_text_is_divided(data):
    found = texts_of(data, count)
    assert list(found) == ["novels", "wikitext", "chat"]
    for name, word in (("novels", "book"), ("wikitext", "article"), ("chat", "talk")):
        words = [w for w in found[name].split() if w.startswith(word)]
        assert 6 <= len(set(words)) <= 8
        cut = len(words) * 3 // 4
        assert len(set(words[: cut - 9]) & set(words[cut + 9 :])) == 0
    assert texts_of(data, count) == found


def test_a_book_gives_its_middle():
    book = "a front\n" * 1000 + "the middle\n" * 5000 + "a back\n" * 1000
    middle = texts._middle(book)
    assert 11_980 < len(middle) <= 12_000
    assert set(middle.split()) == {"the", "middle"}


def test_lines_that_are_no_conversations_are_named(data):
    (data / CHAT).write_text('{"conversation": "hello"}\n{"talk": "hello"}\n')
    with pytest.raises(ValueError, match='line 2: expected an object with "conversation"'):
        texts_of(data, count)
