"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable

from cachegen.evaluation.results import Interval

NOTHING = "–"  # noqa: RUF001 - a dash in a table
_MINUS = "−"  # noqa: RUF001 - as wide as a plus


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, never with an exponent."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 8)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", _MINUS)


def kl(value: float | None) -> str:
    """KL with two digits."""
    return figure(value, 2)


def times(value: float | None) -> str:
    """How many times smaller or faster."""
    return NOTHING if value is None else f"{figure(value, 2 if value < 100 else 3)}×"  # noqa: RUF001


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}%".replace("-", _MINUS)


def change(share: float | None) -> str:
    """A relative change with its sign."""
    return NOTHING if share is None else f"{100 * share:+.2f}%".replace("-", _MINUS)


def points(share: float | None) -> str:
    """A difference of scores, in points of a hundred, with its sign."""
    return NOTHING if share is None else f"{100 * share:+.1f}".replace("-", _MINUS)


def seconds(value: float | None) -> str:
    """A time with three digits."""
    if value is None:
        return NOTHING
    return f"{figure(1000 * value, 3)} ms" if value < 1 else f"{figure(value, 3)} s"


def size(count: int | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{figure(count / scale, 3)} {unit}"
    return f"{count} B"


def link(mbit_s: float | None) -> str:
    """The rate of a link."""
    return "unshaped" if mbit_s is None else f"{figure(mbit_s, 4)} Mbit/s"


def interval(span: Interval | None, show: str = "kl") -> str:
    """Both ends, shown by one of the functions here."""
    if span is None:
        return NOTHING
    shown = FILTERS[show]
    return f"{shown(span[0])} to {shown(span[1])}"


FILTERS: dict[str, Callable[..., str]] = {
    "figure": figure,
    "kl": kl,
    "times": times,
    "percent": percent,
    "change": change,
    "points": points,
    "seconds": seconds,
    "size": size,
    "link": link,
    "interval": interval,
}
