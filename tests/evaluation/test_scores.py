"""Answers against the right ones."""

from __future__ import annotations

import pytest

from cachegen.evaluation.scores import SCORES


@pytest.mark.parametrize(
    ("score", "answer", "right", "expected"),
    (
        ("f1", "The Grey, ship!", ("grey ship",), 1.0),
        ("f1", "a ship of grey wood", ("grey ship",), 2 * 2 / (4 + 2)),
        ("f1", "ship ship", ("ship",), 2 / 3),
        ("f1", "a boat", ("grey ship", "the boat"), 1.0),
        ("f1", "", ("grey ship",), 0.0),
        ("f1", "the", ("a",), 0.0),
        ("f1", "ship\nand more words", ("ship",), 2 / 5),
        ("first_line_f1", "\n\nship\nand more words", ("ship",), 1.0),
        ("code_similarity", "\n    x = 1\n    y = 2", ("    x = 1",), 1.0),
        ("code_similarity", "```\n# first\n// second\nx = 1", ("x = 1",), 1.0),
        ("code_similarity", "abcd", ("abxd",), 6 / 8),
        ("code_similarity", "# a comment", ("x = 1",), 0.0),
        ("topic", "It was the use of TEA.", ("The use of tea",), 1.0),
        ("topic", "The use of salt", ("The use of tea",), 0.0),
        ("number", " <2416>. Line 7", ("2416",), 1.0),
        ("number", "It is 24160", ("2416",), 0.0),
        ("number", "7, no, 2416", ("2416",), 0.0),
        ("number", "none", ("2416",), 0.0),
    ),
)
def test_scores(score: str, answer: str, right: tuple[str, ...], expected: float) -> None:
    assert SCORES[score](answer, right) == pytest.approx(expected)


def test_every_score_is_tried() -> None:
    assert set(SCORES) == {"f1", "first_line_f1", "code_similarity", "topic", "number"}
