"""The picture of a load: one bar for every span, nothing unescaped, nothing lost."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from cachegen.cli.timeline import draw, write
from cachegen.loading.result import LoadResult, Span
from cachegen.policy.controller import Decision, TimedDecision

SVG = "{http://www.w3.org/2000/svg}"
SPANS = (
    Span("lookup", 0.0, 0.01),
    Span("fetch", 0.01, 0.05, 7, "high", 12_000),
    Span("recompute", 0.01, 0.09, 0, "text"),
    Span("decode", 0.05, 0.08, 7, "high"),
    Span("fetch", 0.05, 0.11, 6, "high", 3000, "abandoned"),
    Span("decode", 0.06, 0.07, 5, "a <level> & more"),
    Span("fetch", 0.11, 0.14, 6, "low", 2000),
)
DECISIONS = (
    TimedDecision(0.01, Decision.fetch(7, "high", "sooner <than> recomputing & all")),
    TimedDecision(0.01, Decision.recompute(0, "the model is idle")),
)


def loaded(spans: tuple[Span, ...] = SPANS, decisions: int = 1) -> LoadResult:
    return LoadResult(
        kv=None,
        num_tokens=4096,
        exact=False,
        ttft_s=0.15,
        size_bytes=17_000,
        chunks=(),
        decisions=DECISIONS * decisions,
        spans=spans,
    )


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def bars(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The boxes of spans by what their titles say."""
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == "span"]
    return {str(group.findtext(f"{SVG}title")): group[1] for group in groups}


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_every_span_is_a_bar_in_its_place_and_time() -> None:
    root = parsed(draw(loaded(), title="A load"))
    found = bars(root)
    assert len(found) == len(SPANS)
    fetched = found["fetch chunk 7 at high: 10.0 to 50.0 ms, 12,000 bytes, done"]
    decoded = found["decode chunk 7 at high: 50.0 to 80.0 ms, done"]
    left, width = float(fetched.get("x", "")), float(fetched.get("width", ""))
    assert left + width == pytest.approx(float(decoded.get("x", "")), abs=0.2)
    assert float(decoded.get("width", "")) == pytest.approx(width * 30 / 40, abs=0.2)
    assert fetched.get("fill") == decoded.get("fill")
    assert fetched.get("y") == found["lookup: 0.0 to 10.0 ms, done"].get("y")
    assert float(decoded.get("y", "")) > float(fetched.get("y", ""))


def test_bars_at_the_same_time_do_not_cover_each_other() -> None:
    found = bars(parsed(draw(loaded(), title="A load")))
    first, second = (box for title, box in found.items() if title.startswith("decode"))
    assert first.get("y") != second.get("y")


def test_only_what_did_not_succeed_is_hatched() -> None:
    root = parsed(draw(loaded(), title="A load"))
    hatched = [
        group.findtext(f"{SVG}title")
        for group in root.iter(f"{SVG}g")
        if any(box.get("class") == "hatch" for box in group)
    ]
    assert hatched == ["fetch chunk 6 at high: 50.0 to 110.0 ms, 3,000 bytes, abandoned"]
    assert "abandoned or failed" in texts(root)
    untroubled = parsed(draw(loaded(SPANS[:4]), title="A load"))
    assert "abandoned or failed" not in texts(untroubled)


def test_decisions_are_listed_with_their_reasons() -> None:
    found = texts(parsed(draw(loaded(), title="A load")))
    assert "high: sooner <than> recomputing & all" in found
    assert {"chunk 7: fetch", "chunk 0: recompute", "the model is idle"} <= set(found)
    many = texts(parsed(draw(loaded(decisions=50), title="A load")))
    assert many.count("the model is idle") == 30
    assert "and 40 more" in many


def test_deadline_and_rates_are_drawn_where_they_are_known() -> None:
    plain = parsed(draw(loaded(), title="A load"))
    rates = [(0.0, 20.0), (0.05, 2.0)]
    full = parsed(draw(loaded(), title="A load", rates=rates, deadline_s=0.2))
    assert not any(line.get("class") == "deadline" for line in plain.iter(f"{SVG}line"))
    assert any(line.get("class") == "deadline" for line in full.iter(f"{SVG}line"))
    assert {"20 Mbit/s", "2 Mbit/s", "deadline: 200 ms"} <= set(texts(full))
    assert plain.find(f"{SVG}polyline") is None
    line = full.find(f"{SVG}polyline")
    assert line is not None
    assert len(line.get("points", "").split()) == 4


def test_a_load_of_nothing_is_a_picture_too() -> None:
    empty = LoadResult(None, 0, exact=True, ttft_s=0.0, size_bytes=0, chunks=())
    assert bars(parsed(draw(empty, title="Nothing"))) == {}


def test_a_page_contains_the_picture(tmp_path: Path) -> None:
    picture = draw(loaded(), title="<b> & c")
    write(tmp_path / "load.html", picture, title="<b> & c")
    write(tmp_path / "load.svg", picture, title="<b> & c")
    assert parsed((tmp_path / "load.svg").read_text()).findtext(f"{SVG}title") == "<b> & c"
    page = parsed((tmp_path / "load.html").read_text())
    assert page.findtext("head/title") == "<b> & c"
    assert len(bars(page)) == len(SPANS)
