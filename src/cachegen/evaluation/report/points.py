"""Points of the methods' curves, over all datasets of a model or over one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.evaluation.curves import bits_at
from cachegen.evaluation.results import Result, Row

# This package's own methods: levels of a profile, or those that need none.
OURS = ("cachegen", "adaptive")
# All of its codecs: none is held against it.
_ALL_OURS = (*OURS, "lossless")
# The numbers of our level `packed`.
_PACKED = ("uniform", "8")
_ON_DROPPED = "+ours"
TEXT = "text"
# Bits of a value of an uncompressed cache.
FULL_BITS = 16.0


@dataclass(frozen=True, slots=True)
class Point:
    """One level of a method: means over datasets, each of which counts the same."""

    method: str
    level: str
    bits: float
    kl: float
    top1: float
    n: int

    @property
    def smaller(self) -> float:
        """How many times smaller than 16 bits."""
        return FULL_BITS / self.bits


@dataclass(frozen=True, slots=True)
class Better:
    """A point of another method that is better than ours.

    Attributes:
        dataset: on which.
        point: of the other method.
        our_kl: of the best of our levels that is no larger; None where none is as small.
        is_clear: whether the interval of its KL says so too, or none of ours is as small.
    """

    dataset: str
    point: Point
    our_kl: float | None
    is_clear: bool


def point_name(method: str, level: str) -> str:
    """Method and level as one name; a method whose only level is itself is said once."""
    return method if level in ("", method) else f"{method} {level}"


def ours(result: Result) -> str:
    """The method whose default level a result is about; empty where it has no rows."""
    methods = {row.method for row in result.rows}
    return next((name for name in OURS if name in methods), "")


def is_rival(method: str) -> bool:
    """Whether a method is compared with this package's: it stores a cache, and is none of ours."""
    is_own = method in _ALL_OURS or method.endswith(_ON_DROPPED)
    return not is_own and method != TEXT


def _is_level_of_ours(point: Point) -> bool:
    return point.method in _ALL_OURS or (point.method, point.level) == _PACKED


def default_rows(result: Result) -> tuple[Row, ...]:
    """The default level on every dataset."""
    wanted = (ours(result), result.summary.default_level)
    return tuple(row for row in result.rows if (row.method, row.level) == wanted)


def mean_default(result: Result) -> Point | None:
    """The default level's mean over its datasets; None where it has no rows."""
    rows = default_rows(result)
    return _mean(rows) if rows else None


def least_ratio(result: Result, method: str) -> float | None:
    """What a method needs at the default level's KL, by what that needs: of the dataset where this
    is least, among those where the method has points on both sides of that KL."""
    found = []
    for own in default_rows(result):
        rows = [row for row in result.rows if (row.method, row.dataset) == (method, own.dataset)]
        bits = bits_at(((row.bits_per_value, row.kl) for row in rows), own.kl)
        if bits is not None:
            found.append(bits / own.bits_per_value)
    return min(found, default=None)


def pooled(result: Result) -> dict[str, list[Point]]:
    """Points of every method over the datasets of the default level, smallest first.

    A point that lacks one of them would be compared on other texts; it is left out.
    """
    wanted = {row.dataset for row in default_rows(result) or result.rows}
    found: dict[str, list[Point]] = {}
    for method, level in dict.fromkeys((row.method, row.level) for row in result.rows):
        rows = [row for row in result.rows if (row.method, row.level) == (method, level)]
        rows = [row for row in rows if row.dataset in wanted]
        if {row.dataset for row in rows} == wanted:
            found.setdefault(method, []).append(_mean(rows))
    return _sorted(found)


def left_out(result: Result) -> tuple[str, ...]:
    """Levels that lack a dataset of the default level."""
    kept = {(one.method, one.level) for points in pooled(result).values() for one in points}
    measured = dict.fromkeys((row.method, row.level) for row in result.rows)
    return tuple(point_name(*one) for one in measured if one not in kept)


def on_dataset(result: Result, dataset: str) -> dict[str, list[Point]]:
    """Points of every method on one dataset, smallest first."""
    found: dict[str, list[Point]] = {}
    for row in result.rows:
        if row.dataset == dataset:
            found.setdefault(row.method, []).append(_mean([row]))
    return _sorted(found)


def better_than_ours(result: Result, *, most_kl: float) -> tuple[Better, ...]:
    """Points of other methods with at most this KL that no level of ours equals in size and KL.

    All our levels count, those of a profile and those that need none, and nothing between them. KL
    below the noise floor tells nothing. A point is clearly better if the interval of its KL is, or
    if none of ours is as small. Datasets without any level of ours are left out.
    """
    floor = result.summary.noise_floor_kl or 0.0
    found = []
    for dataset in dict.fromkeys(row.dataset for row in result.rows):
        points = [one for curve in on_dataset(result, dataset).values() for one in curve]
        own = [one for one in points if _is_level_of_ours(one)]
        for row in result.rows:
            if row.dataset != dataset or not is_rival(row.method) or row.kl > most_kl:
                continue
            if not own:
                continue
            as_small = [one.kl for one in own if one.bits <= row.bits_per_value]
            our_kl = min(as_small, default=None)
            if our_kl is None or max(row.kl, floor) < our_kl:
                clear = our_kl is None or bool(row.kl_interval and row.kl_interval[1] < our_kl)
                found.append(Better(dataset, _mean([row]), our_kl, clear))
    return tuple(found)


def _mean(rows: Sequence[Row]) -> Point:
    count = len(rows)
    return Point(
        rows[0].method,
        rows[0].level,
        sum(row.bits_per_value for row in rows) / count,
        sum(row.kl for row in rows) / count,
        sum(row.top1 for row in rows) / count,
        sum(row.n for row in rows),
    )


def _sorted(found: dict[str, list[Point]]) -> dict[str, list[Point]]:
    return {method: sorted(points, key=lambda one: one.bits) for method, points in found.items()}
