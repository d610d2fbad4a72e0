"""Names beside curves, where they hide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cachegen.evaluation.report.canvas import FONT_PX
from cachegen.evaluation.report.palette import sentinel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float]
# Of a letter, over the size of the font: more than the mean of sans-serif fonts.
_LETTER = 0.58
_GAP_PX = 7.0
_BETWEEN_NAMES_PX = 4.0
# What a name costs that lies on another name, outside, or on a point of a curve.
_ON_NAME, _OUTSIDE, _ON_CURVE = 100.0, 60.0, 3.0


@dataclass(frozen=True, slots=True)
class Named:
    """A curve that wants its name.

    Attributes:
        name: to be written.
        colour: of the palette.
        points: of the curve, in data coordinates; the name goes beside one of them.
        needed: whether the name is written even where it hides something.
    """

    name: str
    colour: str
    points: Sequence[Place]
    needed: bool = True


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right + _BETWEEN_NAMES_PX
            and other.left < self.right + _BETWEEN_NAMES_PX
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, place: Place) -> bool:
        return self.left <= place[0] <= self.right and self.bottom <= place[1] <= self.top


def write_names(axes: Axes, curves: Sequence[Named]) -> tuple[str, ...]:
    """Write the names, those first that are needed; the layout must be final.

    Returns:
        The names for which there was no room.
    """
    to_pixels = axes.transData.transform
    frame = _Box(*axes.get_window_extent().extents)
    drawn = [[tuple(to_pixels(one)) for one in curve.points] for curve in curves]
    seen = [[one for one in line if _grown(frame, 1).holds(one)] for line in drawn]
    obstacles = [place for line in drawn for place in _along(line)]
    taken: list[_Box] = []
    unnamed = []
    for curve, places in sorted(
        zip(curves, seen, strict=True), key=lambda pair: not pair[0].needed
    ):
        options = [box for place in places for box in _around(place, curve.name)]
        if not options:
            continue
        cost, box = min(
            ((_cost(box, taken, obstacles, frame), box) for box in options),
            key=lambda pair: pair[0],
        )
        if cost >= _OUTSIDE and not curve.needed:
            unnamed.append(curve.name)
            continue
        taken.append(box)
        text = axes.annotate(
            curve.name,
            xy=(box.left, box.bottom + 3),
            xycoords="figure pixels",
            color=sentinel(curve.colour),
            fontsize=FONT_PX,
            fontweight="bold" if curve.colour == "s0" else "normal",
        )
        text.set_in_layout(False)
    return tuple(unnamed)


def _around(place: Place, name: str) -> list[_Box]:
    """Boxes of the name right of a point, left of it, above and below."""
    x, y = place
    width, height = len(name) * FONT_PX * _LETTER, FONT_PX + 2
    lefts = (x + _GAP_PX, x - _GAP_PX - width, x - width / 2)
    beside = [(left, y - height / 2) for left in lefts[:2]]
    stacked = [(left, y + up) for left in lefts for up in (_GAP_PX, -_GAP_PX - height)]
    return [_Box(left, low, left + width, low + height) for left, low in beside + stacked]


def _cost(box: _Box, taken: Sequence[_Box], obstacles: Sequence[Place], frame: _Box) -> float:
    inside = frame.left <= box.left and box.right <= frame.right
    inside = inside and frame.bottom <= box.bottom and box.top <= frame.top
    return (
        _ON_NAME * sum(box.meets(other) for other in taken)
        + _OUTSIDE * (not inside)
        + _ON_CURVE * sum(box.holds(place) for place in obstacles)
    )


def _along(line: Sequence[Place]) -> list[Place]:
    """Points of a line, close enough that no name fits between two of them."""
    found = list(line)
    for (x0, y0), (x1, y1) in pairwise(line):
        count = int(max(abs(x1 - x0), abs(y1 - y0)) / (FONT_PX / 2))
        found += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(1, count)]
    return found


def _grown(box: _Box, by: float) -> _Box:
    return _Box(box.left - by, box.bottom - by, box.right + by, box.top + by)
