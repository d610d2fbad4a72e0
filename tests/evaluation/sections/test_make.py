"""Sections: what text is timed."""

from types import SimpleNamespace

import pytest

from cachegen.evaluation.case import Case
from cachegen.evaluation.compared import ordinary
from cachegen.evaluation.sections.make import Sections


@pytest.mark.parametrize(("asked", "expected"), ((3, 3), (7, 7), (9000, 8192), (2, 2)))
def test_as_much_text_is_timed_as_asked_or_as_the_model_reads(models, asked, expected):
    long = Case("novel", "000", tuple(range(5000)), following=(1,))
    short = Case("novel", "001", tuple(range(5)), following=(1,))
    third = Case("novel", "002", tuple(range(1, 4000)), following=(1,))
    sections = Sections(
        job=SimpleNamespace(models=models),
        run=None,
        context=None,
        cases={"novel": [short, long, third]},
        rows=(),
        default=("cachegen", "high"),
        tokens=long.context,
        kv=None,
        timed={},
    )
    found = sections._text(asked)
    every = (*long.context, *short.context, *third.context)
    assert found == every[:expected]


def test_texts_that_go_on_are_the_ordinary_ones():
    asking = Case("passkey", "000", (1, 2, 3), (4,), ("5",), most_new_tokens=1, score="exact")
    reading = Case("novel", "000", (5, 6), following=(7,))
    assert ordinary({"passkey": [asking], "novel": [reading]}) == [reading]
    assert ordinary({"passkey": [asking]}) == [asking]
