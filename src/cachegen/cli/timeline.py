"""A picture of a load: what link, decoder and model did when, at which level, and why."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from cachegen.codec.levels import TEXT
from cachegen.loading.result import LoadResult, Span
from cachegen.policy.controller import TimedDecision

Rates = Sequence[tuple[float, float]]

_LANES = {"link": ("lookup", "fetch"), "decoder": ("decode",), "model": ("recompute",)}
_COLOURS = {
    "lowest": "#b91c1c",
    "low": "#c2410c",
    "medium": "#a16207",
    "high": "#15803d",
    "highest": "#0f766e",
    "packed": "#0369a1",
    "lossless": "#1d4ed8",
    "raw": "#6d28d9",
    "text": "#be185d",
}
_OTHER_COLOUR = "#57534e"
# Layout, in pixels and by eye: a character of 12 px is 6.6 wide on average. More ticks or decisions
# than these would be unreadable.
_WIDTH, _LEFT, _RIGHT = 960, 80, 20
_BAR, _GAP, _LINE = 22, 10, 17
_RATES_HEIGHT = 56
_CHARACTER, _LINE_CHARACTERS = 6.6, 150
_MOST_TICKS, _MOST_DECISIONS = 8, 60
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; }
.title { font-size: 15px; font-weight: 600; }
.lane { text-anchor: end; }
.middle { text-anchor: middle; }
.on-bar { fill: #ffffff; text-anchor: middle; font-size: 11px; }
.on-hatch { stroke: #1f2328; stroke-width: 3px; paint-order: stroke; }
.bar { stroke: #1f2328; stroke-opacity: 0.5; }
.hatch { fill: url(#hatch); }
.grid { stroke: #d0d7de; }
.end { stroke: #1f2328; stroke-dasharray: 2 3; }
.deadline { stroke: #dc2626; stroke-width: 2; stroke-dasharray: 6 4; }
.rate { stroke: #1f2328; fill: none; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .paper { fill: #0d1117; }
  .bar, .end, .rate { stroke: #e6edf3; }
  .grid { stroke: #3d444d; }
}
"""


def write(path: Path, picture: str, *, title: str) -> None:
    """Save a picture as it is, or as a page where the file's suffix is that of HTML."""
    if path.suffix in (".html", ".htm"):
        head = f'<meta charset="utf-8"/><title>{html.escape(title)}</title>'
        picture = (
            f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{picture}</body></html>'
        )
    path.write_text(picture + "\n", encoding="utf-8")


def draw(
    result: LoadResult,
    *,
    title: str,
    rates: Rates = (),
    deadline_s: float | None = None,
) -> str:
    """The load as one SVG element: bars over time, decisions below.

    Args:
        result: the load.
        title: heading of the picture.
        rates: (seconds on the load's clock, Mbit/s of the link from then on), in order.
        deadline_s: when the load should have ended, on its clock.
    """
    ends = [result.ttft_s, deadline_s or 0.0, *(span.ended_s for span in result.spans)]
    picture = _Picture(max(*ends, 1e-6), title=title, summary=_summary(result))
    picture.legend(result.spans)
    if rates:
        picture.rates(rates)
    top = picture.y
    for lane, works in _LANES.items():
        picture.lane(lane, [span for span in result.spans if span.work in works])
    picture.axis(top, result.ttft_s, deadline_s)
    picture.decisions(result.decisions)
    return picture.finished()


def _summary(result: LoadResult) -> str:
    parts = ("lookup", "fetch", "decode", "recompute")
    split = ", ".join(f"{name} {1e3 * getattr(result, f'{name}_s'):.0f} ms" for name in parts)
    return (
        f"{result.num_tokens:,} tokens after {1e3 * result.ttft_s:.0f} ms, "
        f"{result.size_bytes:,} bytes; {split}, overlapping by {1e3 * result.overlap_s:.0f} ms"
    )


class _Picture:
    """An SVG element that grows downwards."""

    def __init__(self, until_s: float, *, title: str, summary: str) -> None:
        self.scale, self.until_s, self.y = (_WIDTH - _LEFT - _RIGHT) / until_s, until_s, 0.0
        self.root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
        SubElement(self.root, "title").text = title
        SubElement(self.root, "desc").text = summary
        SubElement(self.root, "style").text = _STYLE
        self._define_hatch()
        self._add("rect", {"class": "paper", "width": "100%", "height": "100%"})
        self._text(_GAP, 24, title, "title")
        self._text(_GAP, 44, summary)
        self.y = 56

    def finished(self) -> str:
        """The picture as text."""
        self.root.set("viewBox", f"0 0 {_WIDTH} {self.y + _GAP:.0f}")
        self.root.set("style", f"max-width: {_WIDTH}px")
        return tostring(self.root, encoding="unicode")

    def legend(self, spans: Sequence[Span]) -> None:
        """The levels that occur, and what hatching means."""
        levels = {span.level for span in spans if span.level}
        order = [*_COLOURS, *sorted(levels - set(_COLOURS))]
        x = float(_GAP)
        for level in (level for level in order if level in levels):
            label = "recompute" if level == TEXT else level
            x = self._legend_entry(x, label, _colour(level))
        if any(span.outcome != "done" for span in spans):
            self._legend_entry(x, "abandoned or failed", _OTHER_COLOUR, hatched=True)
        self.y += _LINE + _GAP

    def rates(self, rates: Rates) -> None:
        """The rate of the link as steps over a shared axis."""
        most = max(rate for _, rate in rates)
        bottom, height = self.y + _RATES_HEIGHT, _RATES_HEIGHT - _LINE
        until = [*(at_s for at_s, _ in rates[1:]), self.until_s]
        points = []
        for (at_s, rate), end_s in zip(rates, until, strict=True):
            y = bottom - height * rate / max(most, 1e-9)
            left, right = self._x(at_s), self._x(end_s)
            points += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
            if right - left > 10 * _CHARACTER:
                self._text(left + 4, y - 4, f"{rate:g} Mbit/s")
        self._text(_LEFT - 8, bottom, "rate", "lane")
        self._add("polyline", {"class": "rate", "points": " ".join(points)})
        self.y = bottom + _GAP

    def lane(self, name: str, spans: Sequence[Span]) -> None:
        """A lane of bars; as many rows as there are bars at once."""
        rows: list[float] = []
        self._text(_LEFT - 8, self.y + 0.7 * _BAR, name, "lane")
        for span in spans:
            free = [row for row, end_s in enumerate(rows) if end_s <= span.began_s]
            row = free[0] if free else len(rows)
            rows[row : row + 1] = [span.ended_s]
            self._bar(span, self.y + row * _BAR)
        self.y += max(len(rows), 1) * _BAR + _GAP

    def axis(self, top: float, end_s: float, deadline_s: float | None) -> None:
        """Times below the lanes; lines through them at the end of the load and the deadline."""
        self._line(_LEFT, self.y, _WIDTH - _RIGHT, self.y, "grid")
        step_s = _tick_s(self.until_s)
        for tick in range(int(self.until_s / step_s) + 1):
            x = self._x(tick * step_s)
            self._line(x, self.y, x, self.y + 4, "grid")
            self._text(x, self.y + _LINE, f"{1e3 * tick * step_s:g}", "middle")
        self._text(_LEFT - 8, self.y + _LINE, "ms", "lane")
        lines = (top, self.y)
        self._milestone("end of the load", end_s, lines, "end")
        if deadline_s is not None:
            self._milestone("deadline", deadline_s, lines, "deadline")
        self.y += 2 * _LINE

    def decisions(self, decisions: Sequence[TimedDecision]) -> None:
        """What was decided when, and why."""
        for timed in decisions[:_MOST_DECISIONS]:
            decision = timed.decision
            self._text(_LEFT - 8, self.y, f"{1e3 * timed.at_s:.0f} ms", "lane")
            self._text(_LEFT, self.y, f"chunk {decision.chunk}: {decision.action}")
            known = f"{decision.level}: " if decision.action == "fetch" else ""
            text = self._text(_LEFT + 130, self.y, _shortened(known + decision.reason))
            SubElement(text, "title").text = decision.reason
            self.y += _LINE
        if len(decisions) > _MOST_DECISIONS:
            self._text(_LEFT, self.y, f"and {len(decisions) - _MOST_DECISIONS} more")
            self.y += _LINE

    def _define_hatch(self) -> None:
        size = {"width": "6", "height": "6", "patternUnits": "userSpaceOnUse"}
        pattern = SubElement(
            SubElement(self.root, "defs"),
            "pattern",
            {"id": "hatch", "patternTransform": "rotate(45)", **size},
        )
        SubElement(pattern, "rect", {"class": "paper", "width": "2", "height": "6"})

    def _legend_entry(self, x: float, name: str, colour: str, *, hatched: bool = False) -> float:
        _box(self.root, (x, self.y, 14, 14), colour, hatched=hatched)
        self._text(x + 20, self.y + 12, name)
        return x + 40 + _CHARACTER * len(name)

    def _bar(self, span: Span, y: float) -> None:
        x, width = self._x(span.began_s), max(span.seconds * self.scale, 1.0)
        group = self._add("g", {"class": "span"})
        SubElement(group, "title").text = _described(span)
        hatched = span.outcome != "done"
        _box(group, (x, y, width, _BAR - 4), _colour(span.level), hatched=hatched)
        label = span.work if span.chunk is None else str(span.chunk)
        if width > _CHARACTER * len(label) + 4:
            where = {"x": f"{x + width / 2:.1f}", "y": f"{y + 0.6 * _BAR:.1f}"}
            look = "on-bar on-hatch" if hatched else "on-bar"
            SubElement(group, "text", {"class": look, **where}).text = label

    def _milestone(self, name: str, at_s: float, lines: tuple[float, float], look: str) -> None:
        """A line through the lanes, and what it means in a line of its own."""
        x, meaning = self._x(at_s), f"{name}: {1e3 * at_s:.0f} ms"
        SubElement(self._line(x, lines[0], x, lines[1], look), "title").text = meaning
        self._text(x, self.y + 2 * _LINE, meaning, "lane" if x > _WIDTH / 2 else "")
        self.y += _LINE

    def _line(self, x1: float, y1: float, x2: float, y2: float, look: str) -> Element:
        ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
        return self._add("line", {"class": look, **{n: f"{v:.1f}" for n, v in ends.items()}})

    def _text(self, x: float, y: float, content: str, look: str = "") -> Element:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}"}
        text = self._add("text", {"class": look, **place} if look else place)
        text.text = content
        return text

    def _add(self, tag: str, attributes: dict[str, str]) -> Element:
        return SubElement(self.root, tag, attributes)

    def _x(self, at_s: float) -> float:
        return _LEFT + min(max(at_s, 0.0), self.until_s) * self.scale


def _box(
    parent: Element, place: tuple[float, float, float, float], colour: str, *, hatched: bool
) -> None:
    names = ("x", "y", "width", "height")
    where = {name: f"{value:.1f}" for name, value in zip(names, place, strict=True)}
    SubElement(parent, "rect", {"class": "bar", "fill": colour, **where})
    if hatched:
        SubElement(parent, "rect", {"class": "hatch", **where})


def _colour(level: str) -> str:
    return _COLOURS.get(level, _OTHER_COLOUR)


def _described(span: Span) -> str:
    what = span.work if span.chunk is None else f"{span.work} chunk {span.chunk} at {span.level}"
    size = f", {span.size_bytes:,} bytes" if span.size_bytes else ""
    times = f"{1e3 * span.began_s:.1f} to {1e3 * span.ended_s:.1f} ms"
    return f"{what}: {times}{size}, {span.outcome}"


def _shortened(text: str) -> str:
    return textwrap.shorten(text, _LINE_CHARACTERS - 30, placeholder=" ...")


def _tick_s(until_s: float) -> float:
    """The smallest of 1, 2, 5, 10, ... with few ticks."""
    unit = 10.0 ** math.floor(math.log10(until_s / _MOST_TICKS))
    return next(unit * n for n in (1, 2, 5, 10) if unit * n * _MOST_TICKS >= until_s)
