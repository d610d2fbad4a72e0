"""Curves of a profile drawn with characters, for terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cachegen.cli.curves import Curve, have_bits, level_names

# With the margin 69 columns, of the 80 that a terminal has at least.
_WIDTH, _HEIGHT = 60, 15
_MARKS = "ox+*#@%&"
_SHARED = "="
_MARGIN = 9


def draw_text(curves: Sequence[Curve]) -> str:
    """KL against bits per value, both logarithmic, a mark for each level and domain.

    Where bits are not known KL is drawn against the levels, one place each. Marks of several
    domains that fall together are drawn as `=`.

    Args:
        curves: at least one.
    """
    names = level_names(curves)
    by_bits = have_bits(curves)
    points = [
        (_across(curve, names, by_bits=by_bits)[place], kl, _MARKS[index % len(_MARKS)])
        for index, curve in enumerate(curves)
        for place, kl in enumerate(curve.kl)
    ]
    xs = [math.log(across) for across, _, _ in points]
    ys = [math.log(kl) for _, kl, _ in points]
    left, right = _range(xs)
    low, high = _range(ys)
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for x, y, (_, _, mark) in zip(xs, ys, points, strict=True):
        row = cells[round((high - y) / (high - low) * (_HEIGHT - 1))]
        column = round((x - left) / (right - left) * (_WIDTH - 1))
        row[column] = mark if row[column] in (" ", mark) else _SHARED
    lines = ["KL, nats per token"]
    for number, row in enumerate(cells):
        is_named = number % ((_HEIGHT - 1) // 2) == 0
        value = math.exp(high - (high - low) * number / (_HEIGHT - 1))
        label = f"{value:.2g}" if is_named else ""
        lines.append(f"{label:>{_MARGIN - 2}} {'┤' if is_named else '│'}{''.join(row).rstrip()}")
    lines.append(f"{'':{_MARGIN - 1}}└{'─' * _WIDTH}")
    lines.append(f"{'':{_MARGIN}}{_below(curves, names, left, right)}")
    legend = (f"{_MARKS[i % len(_MARKS)]} {curve.domain}" for i, curve in enumerate(curves))
    lines.append(f"{'':{_MARGIN}}{'   '.join(legend)}")
    return "\n".join(lines)


def _across(curve: Curve, names: Sequence[str], *, by_bits: bool) -> Sequence[float]:
    """Bits, or places as far apart as their neighbours on a logarithmic axis."""
    if by_bits and curve.bits is not None:
        return curve.bits
    return [math.exp(names.index(name)) for name in curve.levels]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Of numbers that may all be the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _below(curves: Sequence[Curve], names: Sequence[str], left: float, right: float) -> str:
    """What the horizontal axis is."""
    if not have_bits(curves):
        gap = max(1, (_WIDTH - sum(map(len, names))) // max(len(names) - 1, 1))
        return (" " * gap).join(names)
    ends = (f"{math.exp(left):.2f}", f"{math.exp(right):.2f}")
    return f"{ends[0]}{'bits per value':^{_WIDTH - len(ends[0]) - len(ends[1])}}{ends[1]}"
