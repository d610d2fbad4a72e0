"""The report's pictures, section by section."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cachegen.codec.levels import PROMISED_KL
from cachegen.evaluation.report import numbers
from cachegen.evaluation.report.canvas import Picture
from cachegen.evaluation.report.charts import (
    PANEL_PX,
    Axis,
    Curve,
    Dot,
    Mark,
    bars_chart,
    course_chart,
    curves_chart,
    dots_chart,
)
from cachegen.evaluation.report.links import series_name, varied
from cachegen.evaluation.report.palette import Look
from cachegen.evaluation.report.points import (
    TEXT,
    Point,
    on_dataset,
    ours,
    point_name,
    pooled,
)
from cachegen.evaluation.results import Result, Row, Ttft

# Worse than this a cache is of no use, and curves that go on would press the others together.
WORST_KL = 1.0
# Nobody sees a difference below this in text; what is better is drawn here.
BEST_KL = 1e-4
# Scores are compared between points at most this far from the uncompressed run.
COMPARED_KL = 0.01
# A page beside its margins.
PAGE_PX = 1088.0
_WIDE_HEIGHT, _TALL_HEIGHT = 430.0, 400.0
_MARGIN_KL = 0.7

Looks = Mapping[str, Look]


def opening(results: Sequence[Result], looks: Looks) -> list[tuple[Picture, Picture]]:
    """Quality kept against times smaller over all datasets: for a page, and for a telephone."""
    columns = min(len(results), 2)
    wide = ((PAGE_PX - 24 * (columns - 1)) / columns, _WIDE_HEIGHT)
    narrow = (PANEL_PX, _TALL_HEIGHT)
    found = []
    for place, result in enumerate(results):
        pair = [
            _quality(result, pooled(result), looks, key=f"opening-{name}-{place}", size=size)
            for name, size in (("wide", wide), ("narrow", narrow))
        ]
        if pair[0] and pair[1]:
            found.append((pair[0], pair[1]))
    return found


def per_dataset(result: Result, looks: Looks, *, key: str) -> list[Picture]:
    """Quality against size, a panel for every dataset."""
    names = dict.fromkeys(row.dataset for row in result.rows)
    found = (
        _quality(
            result,
            on_dataset(result, name),
            looks,
            key=f"{key}-{place}",
            title=_titled(result, name),
        )
        for place, name in enumerate(names)
    )
    return [one for one in found if one]


def _titled(result: Result, dataset: str) -> str:
    return f"{dataset}, {_counts([row.n for row in result.rows if row.dataset == dataset])}"


def _counts(ns: Sequence[int]) -> str:
    return f"n = {ns[0]}" if len(set(ns)) == 1 else f"n = {min(ns)} to {max(ns)}"


def scores(result: Result, *, key: str) -> list[Picture]:
    """Scores with intervals: of each method the smallest point that is near enough."""
    found = []
    for place, name in enumerate(dict.fromkeys(row.dataset for row in result.rows)):
        rows = [row for row in result.rows if row.dataset == name and row.score is not None]
        chosen = comparable(rows, ours(result), result.summary.default_level)
        if not chosen:
            continue
        whole = next(
            (r.score_uncompressed for r in chosen if r.score_uncompressed is not None), None
        )
        dots = [
            Dot(
                point_name(row.method, row.level),
                100 * (row.score or 0.0),
                None
                if row.score_interval is None
                else (100 * row.score_interval[0], 100 * row.score_interval[1]),
                "s0" if row.method == ours(result) else "s6",
                f"{100 * (row.score or 0.0):.1f} at {numbers.times(16 / row.bits_per_value)}",
            )
            for row in chosen
        ]
        found.append(
            dots_chart(
                dots,
                key=f"{key}-{place}",
                title=f"{name}, {_counts([row.n for row in chosen])}",
                description=f"Scores of {result.model.name} on {name} with 95% intervals; "
                "the table below has every number.",
                across=Axis("score, 0 to 100; dashed: uncompressed"),
                line=None if whole is None else 100 * whole,
            )
        )
    return found


def comparable(rows: Sequence[Row], own: str, default_level: str) -> list[Row]:
    """Our default level, then of each method its smallest point with a KL of at most 0.01.

    A method that has none is there with its best.
    """
    found = [row for row in rows if (row.method, row.level) == (own, default_level)]
    for method in dict.fromkeys(row.method for row in rows if row.method != own):
        of_method = [row for row in rows if row.method == method]
        near = [row for row in of_method if row.kl <= COMPARED_KL]
        found.append(
            min(near, key=lambda row: row.bits_per_value)
            if near
            else min(of_method, key=lambda row: row.kl)
        )
    return found


def ttft(result: Result, looks: Looks, *, key: str) -> list[Picture]:
    """Time to the first token against the link, the context's length, and the load."""
    wanted = (
        ("mbit_s", "against the link", Axis("link, Mbit/s", is_log=True)),
        ("context_tokens", "against the context", Axis("tokens", "{:,.0f}".format, is_log=True)),
        ("concurrency", "against the load", Axis("requests at once", is_log=True)),
    )
    found = []
    for by, title, across in wanted:
        series = {
            name: [row for row in rows if getattr(row, by) is not None]
            for name, rows in varied(result, by).items()
        }
        curves = [_ttft_curve(name, rows, by, looks) for name, rows in series.items() if rows]
        if not curves:
            continue
        timed = [row for rows in series.values() for row in rows]
        found.append(
            curves_chart(
                curves,
                key=f"{key}-{by}",
                title=f"{title}: {_held(timed[0], by)}, {_counts([row.n for row in timed])}",
                description=f"Time to the first token {title}, a curve for each method; "
                "the table below has every number.",
                across=across,
                upright=Axis("TTFT, median; thin: to the 95th percentile", numbers.seconds, True),
            )
        )
    return found


def slo(result: Result, looks: Looks, *, key: str) -> list[Picture]:
    """Deadlines missed, a panel for every kind of link."""
    found = []
    for place, trace in enumerate(dict.fromkeys(row.trace for row in result.slo)):
        rows = [row for row in result.slo if row.trace == trace]
        policies = dict.fromkeys(row.policy for row in rows)
        if len({row.deadline_s for row in rows}) > 1:
            curves = [
                Curve(
                    policy,
                    looks[policy],
                    [(r.deadline_s, 100 * (1 - r.met)) for r in rows if r.policy == policy],
                )
                for policy in policies
            ]
            found.append(
                curves_chart(
                    curves,
                    key=f"{key}-{place}",
                    title=f"{trace}, {_counts([row.n for row in rows])}",
                    description=f"Share of deadlines missed against the deadline on {trace}.",
                    across=Axis("deadline", numbers.seconds, is_log=True),
                    upright=Axis("deadlines missed, %", limits=(0.0, 100.0)),
                )
            )
        else:
            bars = [(r.policy, 100 * (1 - r.met), numbers.percent(1 - r.met)) for r in rows]
            found.append(
                bars_chart(
                    bars,
                    key=f"{key}-{place}",
                    title=f"{trace}, deadline {numbers.seconds(rows[0].deadline_s)}, "
                    f"{_counts([row.n for row in rows])}",
                    description=f"Share of deadlines missed by each policy on {trace}.",
                    colour="s0",
                )
            )
    return found


def timeline(result: Result, *, key: str) -> list[tuple[Picture, Picture]]:
    """One load, for a page and for a telephone."""
    if not result.timeline:
        return []
    moments = sorted(result.timeline, key=lambda one: one.t_s)

    def drawn(name: str, size: tuple[float, float]) -> Picture:
        return course_chart(
            [one.t_s for one in moments],
            [one.mbit_s for one in moments],
            [one.choice for one in moments],
            key=f"{key}-{name}",
            title="one load",
            description="The link's rate over time, and what was chosen for each chunk of a load.",
            size=size,
        )

    return [(drawn("wide", (PAGE_PX * 0.75, 340.0)), drawn("narrow", (PANEL_PX, 320.0)))]


def ablation(result: Result, *, key: str) -> list[Picture]:
    """Bits of a value, part by part."""
    bars = [
        (
            one.step,
            one.bits_per_value,
            f"{numbers.figure(one.bits_per_value)} bits, KL {numbers.kl(one.kl)}",
        )
        for one in result.ablation
    ]
    title = "bits per value, part by part"
    return _bars(bars, key, title, "s0")


def breakdown(result: Result, *, key: str) -> list[Picture]:
    """Seconds, part by part."""
    bars = [
        (
            one.part,
            one.seconds,
            f"{numbers.seconds(one.seconds)}, {numbers.percent(one.share_of_prefill)} of prefill",
        )
        for one in result.breakdown
    ]
    return _bars(bars, key, "seconds, part by part", "s2")


def _bars(
    bars: Sequence[tuple[str, float, str]], key: str, title: str, colour: str
) -> list[Picture]:
    if not bars:
        return []
    description = f"{title}: " + "; ".join(f"{name} {shown}" for name, _, shown in bars)
    return [bars_chart(bars, key=key, title=title, description=description, colour=colour)]


def _quality(
    result: Result,
    points: Mapping[str, Sequence[Point]],
    looks: Looks,
    *,
    key: str,
    title: str = "",
    size: tuple[float, float] = (PANEL_PX, 320.0),
) -> Picture | None:
    """KL, the small values on top, against how many times smaller; None without a point."""
    floor = max(result.summary.noise_floor_kl or 0.0, BEST_KL)
    curves = [
        Curve(method, looks[method], kept)
        for method, line in points.items()
        if method != TEXT
        and (kept := [(one.smaller, max(one.kl, floor)) for one in line if one.kl <= WORST_KL])
    ]
    if not curves:
        return None
    default = next(
        (
            one
            for one in points.get(ours(result), ())
            if one.level == result.summary.default_level and one.kl <= WORST_KL
        ),
        None,
    )
    kls = [kl for curve in curves for _, kl in curve.points]
    return curves_chart(
        curves,
        key=key,
        title=title or result.model.name,
        description=f"KL against times smaller than 16 bits, {result.model.name}"
        f"{', ' + title if title else ''}: {_described(points)}",
        across=Axis("times smaller than 16 bits", "{:g}×".format, is_log=True),  # noqa: RUF001
        upright=Axis(
            "quality kept: KL, nats per token (up is better)",
            numbers.kl,
            is_log=True,
            is_reversed=True,
            limits=(min(kls) * _MARGIN_KL, max(kls)),
        ),
        marks=(Mark(PROMISED_KL, f"promise, {PROMISED_KL:g}"),),
        stressed=(default.smaller, max(default.kl, floor), _default_name(default))
        if default
        else None,
        size=size,
    )


def _default_name(point: Point) -> str:
    return f"{point.level}, {numbers.times(point.smaller)}"


def _described(points: Mapping[str, Sequence[Point]]) -> str:
    """In words, for who does not see the picture: the smallest point within 0.01 of each method."""
    found = []
    for method, line in points.items():
        near = [one for one in line if one.kl <= COMPARED_KL]
        if near and method != TEXT:
            best = max(near, key=lambda one: one.smaller)
            found.append(f"{method} {numbers.times(best.smaller)} at {numbers.kl(best.kl)}")
    return "smallest with a KL of at most 0.01: " + ("; ".join(found) or "none")


def _ttft_curve(name: str, rows: Sequence[Ttft], by: str, looks: Looks) -> Curve:
    place: Callable[[Ttft], float] = lambda row: float(getattr(row, by))  # noqa: E731
    return Curve(
        name,
        looks[name],
        [(place(row), row.ttft_s_p50) for row in rows],
        [(row.ttft_s_p50, row.ttft_s_p95) for row in rows],
    )


def _held(row: Ttft, by: str) -> str:
    """What is the same all along a curve."""
    parts = {
        "mbit_s": numbers.link(row.mbit_s),
        "context_tokens": f"{row.context_tokens:,} tokens",
        "concurrency": f"{row.concurrency} at once",
    }
    return ", ".join(text for name, text in parts.items() if name != by)


def series(results: Sequence[Result]) -> list[str]:
    """Names of all that is drawn as a curve: methods, series of times, policies."""
    names = [row.method for result in results for row in result.rows]
    names += [series_name(row) for result in results for row in result.ttft]
    names += [row.policy for result in results for row in result.slo]
    return list(dict.fromkeys(names))
