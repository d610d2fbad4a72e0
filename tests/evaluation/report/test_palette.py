import itertools

import pytest

from cachegen.evaluation.report.palette import COLOURS, looks, sentinel, with_variables


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(dark):
    grounds = [COLOURS[name][dark] for name in ("paper", "card")]
    texts = {name: pair[dark] for name, pair in COLOURS.items()}
    for name in ("paper", "card", "rule"):
        del texts[name]
    poor = [
        name for name, text in texts.items() for ground in grounds if contrast(text, ground) < 4.5
    ]
    assert poor == []


def test_stand_ins_are_single():
    names = list(COLOURS)
    assert with_variables(" ".join(map(sentinel, names))).split() == [
        f"var(--{name})" for name in names
    ]


def test_known_methods_keep_their_colour():
    first = looks(["cachegen", "kvtc", "h2o", "uniform"])
    second = looks(["uniform", "snapkv", "kvtc", "cachegen"])
    assert all(first[name] == second[name] for name in ("cachegen", "kvtc", "uniform"))
    assert not first["h2o"].is_named
    colours = [first[name].colour for name in ("cachegen", "kvtc", "uniform")]
    assert all(one != other for one, other in itertools.combinations(colours, 2))


def test_two_of_one_colour_differ_in_their_lines():
    found = looks(["cachegen high", "cachegen adaptive"])
    assert [one.dashed for one in found.values()] == [False, True]
