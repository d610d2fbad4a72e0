"""Texts to learn from, cut so that what is measured was not learned from.

Calibration learns from the first three quarters of a text's tokens and measures on the rest: every
text here is made of whole pieces, and no piece lies in both.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Callable
from pathlib import Path

NOVELS = "corpus/eltec-eng.train.txt.xz"
WIKITEXT = "text/wikitext2_valid.txt"
CHAT = "longchat/conversations.jsonl"
_NOVEL_CHARACTERS = 12_000
_BOOK = re.compile(r"^<<<.*>>>$", re.MULTILINE)
_ARTICLE = re.compile(r"^(?= = [^=\n]+ = \n)", re.MULTILINE)
_ROUNDS = 2

Count = Callable[[str], int]


def texts_of(data: Path, count: Count) -> dict[str, str]:
    """A text of every kind, by its name.

    Args:
        data: folder with the three files named above.
        count: tokens of a text, as the model's tokenizer divides it.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not what its name says.
    """
    found = {
        "novels": _novels(data / NOVELS),
        "wikitext": articles(data / WIKITEXT),
        "chat": conversations(data / CHAT),
    }
    return {name: parted(_shuffled(pieces, name), count) for name, pieces in found.items()}


def articles_held_out(data: Path, count: Count) -> list[str]:
    """The articles of WikiText that `texts_of` has in the last quarter, whole.

    Raises:
        OSError: the file is missing.
        ValueError: it has fewer than two articles.
    """
    pieces = _shuffled(articles(data / WIKITEXT), "wikitext")
    _check_pieces(pieces)
    return pieces[_boundary([count(piece) for piece in pieces]) :]


def _shuffled(pieces: list[str], name: str) -> list[str]:
    shuffled = list(pieces)
    random.Random(name).shuffle(shuffled)
    return shuffled


def parted(pieces: list[str], count: Count) -> str:
    """Pieces joined such that the last quarter of the tokens begins where a piece does.

    The half that has too many tokens for that loses some at its outer end.

    Raises:
        ValueError: fewer than two pieces.
    """
    _check_pieces(pieces)
    middle = _boundary([count(piece) for piece in pieces])
    first, last = "\n\n".join(pieces[:middle]) + "\n\n", "\n\n".join(pieces[middle:])
    for _ in range(_ROUNDS):
        learned, measured = count(first), count(last)
        if learned > 3 * measured:
            first = first[-round(len(first) * 3 * measured / learned) :]
        else:
            last = last[: round(len(last) * learned / (3 * measured))]
    return first + last


def _check_pieces(pieces: list[str]) -> None:
    if len(pieces) < 2:
        raise ValueError(f"expected at least two pieces of text, got {len(pieces)}")


def _boundary(sizes: list[int]) -> int:
    """How many pieces are nearest to three quarters of all tokens; one at least is left."""
    total = sum(sizes)
    return min(range(1, len(sizes)), key=lambda n: abs(sum(sizes[:n]) - 0.75 * total))


def _novels(path: Path) -> list[str]:
    """From the middle of every book, where neither preface nor contents are."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        books = [book.strip() for book in _BOOK.split(file.read())]
    return [_middle(book) for book in books if len(book) > _NOVEL_CHARACTERS]


def _middle(book: str) -> str:
    start = book.find("\n", (len(book) - _NOVEL_CHARACTERS) // 2) + 1
    return book[start : start + _NOVEL_CHARACTERS].rpartition(" ")[0]


def articles(path: Path) -> list[str]:
    """Of WikiText, each from its heading on."""
    parts = _ARTICLE.split(path.read_text(encoding="utf-8"))
    return [part.strip() for part in parts if part.strip()]


def conversations(path: Path) -> list[str]:
    """Whole conversations, each of one topic."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(str(json.loads(line)["conversation"]).strip())
        except (ValueError, LookupError, TypeError) as exc:
            raise ValueError(
                f'{path}, line {number}: expected an object with "conversation", got {exc!r}'
            ) from exc
    return found
