"""Times to the first token: the series that are compared, and where loading beats prefill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cachegen.evaluation.report.points import OURS, TEXT, point_name
from cachegen.evaluation.results import Result, Ttft

_ADAPTIVE = "adaptive"
_UNSHAPED = float("inf")


@dataclass(frozen=True, slots=True)
class BreakEven:
    """At which links ours was ahead of a full prefill.

    Attributes:
        context_tokens: of the contexts.
        concurrency: requests at once.
        level: of ours.
        ahead: links at which even the 95th percentile was below the prefill's median.
        behind: links at which the median was above the prefill's.
        close: the others.
    """

    context_tokens: int
    concurrency: int
    level: str
    ahead: tuple[float, ...]
    behind: tuple[float, ...]
    close: tuple[float, ...]

    @property
    def links(self) -> int:
        """How many were measured."""
        return len(self.ahead) + len(self.behind) + len(self.close)


def series_name(row: Ttft) -> str:
    """Method and level as one name."""
    return point_name(row.method, row.level)


def break_evens(result: Result) -> tuple[BreakEven, ...]:
    """For every length of context and every load."""
    settings = dict.fromkeys((row.context_tokens, row.concurrency) for row in result.ttft)
    found = (_break_even(result, tokens, load) for tokens, load in sorted(settings))
    return tuple(one for one in found if one)


def varied(result: Result, by: str) -> dict[str, tuple[Ttft, ...]]:
    """Rows that differ in one column only, by series: those of the setting with most values of it.

    Returns:
        Nothing where no column has two values.
    """
    names = [name for name in ("mbit_s", "context_tokens", "concurrency") if name != by]

    def setting(row: Ttft) -> tuple[float | None, ...]:
        return tuple(getattr(row, name) for name in names)

    values = {(setting(row), getattr(row, by)) for row in result.ttft}
    counts = Counter(where for where, _ in values)
    if not counts or max(counts.values()) < 2:
        return {}
    wanted = max(counts, key=lambda where: counts[where])
    found: dict[str, tuple[Ttft, ...]] = {}
    for row in sorted(result.ttft, key=lambda row: _number(getattr(row, by))):
        if setting(row) == wanted:
            name = series_name(row)
            found[name] = (*found.get(name, ()), row)
    return found


def rate(row: Ttft) -> float:
    """Of the link; infinite where it is not shaped."""
    return _number(row.mbit_s)


def _break_even(result: Result, tokens: int, load: int) -> BreakEven | None:
    rows = [r for r in result.ttft if (r.context_tokens, r.concurrency) == (tokens, load)]
    texts = [row for row in rows if row.method == TEXT]
    own = [row for row in rows if row.method in OURS]
    levels = {row.level for row in own}
    if not texts or not own:
        return None
    wanted = (_ADAPTIVE, result.summary.default_level, *sorted(levels))
    level = next(one for one in wanted if one in levels)
    ahead: list[float] = []
    behind: list[float] = []
    close: list[float] = []
    for row in sorted((row for row in own if row.level == level), key=rate):
        same = [one for one in texts if one.mbit_s == row.mbit_s] or texts
        prefill = min(one.ttft_s_p50 for one in same)
        if row.ttft_s_p95 < prefill:
            ahead.append(rate(row))
        else:
            (behind if row.ttft_s_p50 > prefill else close).append(rate(row))
    return BreakEven(tokens, load, level, tuple(ahead), tuple(behind), tuple(close))


def _number(value: float | None) -> float:
    return _UNSHAPED if value is None else value
