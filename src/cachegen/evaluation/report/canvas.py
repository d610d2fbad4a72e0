"""From a matplotlib figure to SVG inside a page: no identifiers twice, colours of the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cachegen.evaluation.report.palette import sentinel, with_variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_PX = 12.0
# SVG of matplotlib counts points of which 72 are an inch; a point is shown as one pixel.
_POINTS = 72.0
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.size": FONT_PX,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": sentinel("muted"),
    "axes.labelcolor": sentinel("muted"),
    "text.color": sentinel("ink"),
    "xtick.color": sentinel("muted"),
    "ytick.color": sentinel("muted"),
    "axes.titlecolor": sentinel("muted"),
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_PX,
    "axes.labelsize": FONT_PX,
    "grid.color": sentinel("rule"),
    "grid.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page.

    Attributes:
        title: a heading for it.
        svg: the drawing, with its text for those who do not see it.
        unnamed: series that are drawn without their names, for want of room.
    """

    title: str
    svg: Markup
    unnamed: tuple[str, ...] = ()


@contextmanager
def drawing(key: str) -> Iterator[None]:
    """Draw with the report's settings; `key` keeps the identifiers of pictures apart."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context({**_RC, "svg.hashsalt": key}):
        # Text is set by the reader's fonts, which have what matplotlib's may not.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_POINTS, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    return figure


def to_svg(figure: Figure, *, key: str, description: str) -> Markup:
    """The figure as an element of a page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _without_unused_ids(text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text)
    text = re.sub(r">\s+<", "><", text)
    width, height = (round(one * _POINTS) for one in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-labelledby="{key}-text" viewBox="0 0 {width} {height}" '
        f'style="max-width: {width}px"><title id="{key}-text">{escape(description)}</title>'
    )
    text = opening + text[text.index(">") + 1 :]
    return Markup(with_variables(text.strip()))


def _without_unused_ids(text: str) -> str:
    used = set(re.findall(r"#([\w-]+)[\"')]", text))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
