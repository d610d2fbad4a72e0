"""The kinds of pictures: curves, dots with intervals, bars, a course of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachegen.evaluation.report.canvas import FONT_PX, Picture, drawing, new_figure, to_svg
from cachegen.evaluation.report.labels import Named, write_names
from cachegen.evaluation.report.palette import Look, sentinel
from cachegen.evaluation.results import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels: a panel fits a telephone, two or three fit a page.
PANEL_PX = 352.0
# Free beyond the data, of its range.
_MARGIN = 0.06
# How far behind the last value a tick may be where names stand.
_BEYOND = 1.6
_ROW_PX = 34.0
_AXIS_PX = 46.0
# Left free at the right end, where curves end and have their names.
_NAME_PX = 70.0
_MOST_TICKS = {True: 8, False: 5}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of curves.

    Attributes:
        label: with its unit.
        show: a tick as text.
        is_log: logarithmic.
        is_reversed: small values last.
        limits: of the data; None for what the data takes.
    """

    label: str
    show: Callable[[float], str] = "{:g}".format
    is_log: bool = False
    is_reversed: bool = False
    limits: Interval | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one curve, in their order."""

    name: str
    look: Look
    points: Sequence[tuple[float, float]]
    spans: Sequence[Interval | None] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A value of the upright axis that is pointed out."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with its interval, named above."""

    name: str
    value: float
    span: Interval | None
    colour: str
    shown: str


def curves_chart(
    curves: Sequence[Curve],
    *,
    key: str,
    title: str,
    description: str,
    across: Axis,
    upright: Axis,
    marks: Sequence[Mark] = (),
    stressed: tuple[float, float, str] | None = None,
    size: tuple[float, float] = (PANEL_PX, 300.0),
) -> Picture:
    """Curves with their names beside them; one point may be stressed."""
    with drawing(key):
        figure = new_figure(*size)
        axes = figure.subplots()
        for curve in curves:
            _draw_curve(axes, curve)
        _set_axis(
            axes,
            "x",
            across,
            [x for one in curves for x, _ in one.points],
            wide=size[0],
            has_names=True,
        )
        _set_axis(axes, "y", upright, [y for one in curves for _, y in one.points], wide=size[1])
        axes.set_xlabel(across.label)
        axes.set_title(upright.label)
        axes.grid(visible=True, axis="y")
        named = [
            Named(one.name, one.look.colour, one.points, needed=one.look.is_named) for one in curves
        ]
        for mark in marks:
            axes.axhline(mark.value, color=sentinel("muted"), lw=1.0, ls=(0, (2, 2)), zorder=1)
            ends = sorted(axes.get_xlim())
            named.append(Named(mark.label, "muted", [(end, mark.value) for end in ends]))
        if stressed:
            axes.plot(*stressed[:2], "o", ms=11, mew=2, mfc="none", color=sentinel("s0"), zorder=5)
            named.insert(0, Named(stressed[2], "s0", [stressed[:2]]))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        unnamed = write_names(axes, named)
        return Picture(title, to_svg(figure, key=key, description=description), unnamed)


def dots_chart(
    dots: Sequence[Dot],
    *,
    key: str,
    title: str,
    description: str,
    across: Axis,
    line: float | None = None,
) -> Picture:
    """A row for every value, its interval as a line; `line` is what they are compared with."""
    with drawing(key):
        figure = new_figure(PANEL_PX, len(dots) * _ROW_PX + _AXIS_PX)
        axes = figure.subplots()
        for place, dot in enumerate(dots):
            colour = sentinel(dot.colour)
            if dot.span:
                axes.plot(dot.span, (place, place), color=colour, lw=2, solid_capstyle="round")
            axes.plot(dot.value, place, "o", ms=7, color=colour)
            _write_row(axes, place, f"{dot.name}: {dot.shown}", dot.colour)
        if line is not None:
            axes.axvline(line, color=sentinel("muted"), lw=1.0, ls=(0, (2, 2)), zorder=1)
        _leave_rows(axes, len(dots))
        values = [end for dot in dots for end in (dot.span or ()) or (dot.value,)]
        _set_axis(axes, "x", across, [*values, *(() if line is None else (line,))], wide=PANEL_PX)
        axes.set_xlabel(across.label)
        return Picture(title, to_svg(figure, key=key, description=description))


def bars_chart(
    bars: Sequence[tuple[str, float, str]], *, key: str, title: str, description: str, colour: str
) -> Picture:
    """A bar for every name and value, with what is to be said of it above."""
    with drawing(key):
        figure = new_figure(PANEL_PX, len(bars) * _ROW_PX + 12)
        axes = figure.subplots()
        for place, (name, value, shown) in enumerate(bars):
            axes.barh(place, value, height=0.3, color=sentinel(colour))
            _write_row(axes, place, f"{name}: {shown}", "ink")
        _leave_rows(axes, len(bars))
        axes.set_xlim(0, max(value for _, value, _ in bars) or 1)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return Picture(title, to_svg(figure, key=key, description=description))


def course_chart(
    times: Sequence[float],
    rates: Sequence[float],
    choices: Sequence[str],
    *,
    key: str,
    title: str,
    description: str,
    size: tuple[float, float],
) -> Picture:
    """The link's rate over time, and under it what was chosen for each chunk."""
    kinds = list(dict.fromkeys(choices))
    with drawing(key):
        figure = new_figure(*size)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1.2))
        above.step(times, rates, where="post", color=sentinel("muted"))
        above.set_title("link, Mbit/s")
        above.set_ylim(bottom=0)
        above.grid(visible=True, axis="y")
        rows = [kinds.index(one) for one in choices]
        below.plot(times, rows, "o", ms=5, color=sentinel("s0"))
        below.set_yticks(range(len(kinds)), kinds)
        below.set_ylim(-0.7, len(kinds) - 0.3)
        below.grid(visible=True, axis="y")
        below.set_title("chunk by chunk")
        below.set_xlabel("seconds since the load began")
        return Picture(title, to_svg(figure, key=key, description=description))


def _draw_curve(axes: Axes, curve: Curve) -> None:
    colour = sentinel(curve.look.colour)
    is_ours = curve.look.colour == "s0"
    axes.plot(
        *zip(*curve.points, strict=True),
        marker=curve.look.marker,
        ms=5 if curve.look.is_named else 6,
        lw=2.6 if is_ours else 1.5,
        ls="--" if curve.look.dashed else "-",
        color=colour,
        zorder=4 if is_ours else 3 if curve.look.is_named else 2,
    )
    for (x, _), span in zip(curve.points, curve.spans, strict=False):
        if span:
            axes.plot((x, x), span, color=colour, lw=1.0, alpha=0.6)


def _write_row(axes: Axes, place: int, text: str, colour: str) -> None:
    axes.text(
        0,
        place - 0.42,
        text,
        color=sentinel(colour),
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=FONT_PX,
    )


def _leave_rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.7)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _set_axis(
    axes: Axes,
    which: str,
    wanted: Axis,
    values: Sequence[float],
    *,
    wide: float,
    has_names: bool = False,
) -> None:
    """Scale, limits and ticks at round numbers; curves leave room for names."""
    from matplotlib.ticker import NullLocator

    low, high = wanted.limits or (min(values), max(values))
    room = _NAME_PX / (wide - 2 * _NAME_PX) if which == "x" and has_names else _MARGIN
    if wanted.is_log:
        span = high / low if high > low else 10.0
        low, high = low / span**_MARGIN, high * span**room
        axes.set(**{f"{which}scale": "log"})
        ticks = _log_ticks(low, high, most=_MOST_TICKS[wide > PANEL_PX])
    else:
        even = high - low or abs(high) or 1.0
        low, high = low - (even * _MARGIN if low else 0), high + even * room
        ticks = _even_ticks(low, high)
    axes.set(**{f"{which}lim": (high, low) if wanted.is_reversed else (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    # A tick among the names would widen the picture for its label.
    ticks = [one for one in ticks if not has_names or one <= _BEYOND * max(values)]
    axis.set_ticks(ticks, [wanted.show(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _log_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Ticks at 1, 2 and 5 of every power of ten, or at fewer where those are too many."""
    found: list[float] = []
    for bases in ((1, 2, 5), (1, 3), (1,)):
        found = [base * 10.0**power for power in range(-9, 10) for base in bases]
        found = [one for one in found if low <= one <= high]
        if len(found) <= most:
            break
    return found


def _even_ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(one) for one in MaxNLocator(5).tick_values(low, high) if low <= one <= high]
