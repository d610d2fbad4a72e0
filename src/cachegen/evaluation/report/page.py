"""The report as one HTML page that needs no network and no script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cachegen.evaluation.report import figures, findings, numbers
from cachegen.evaluation.report.advice import advice, score_drop
from cachegen.evaluation.report.canvas import Picture
from cachegen.evaluation.report.palette import looks, style_variables
from cachegen.evaluation.report.points import (
    FULL_BITS,
    default_rows,
    least_ratio,
    left_out,
    mean_default,
    ours,
)
from cachegen.evaluation.report.published import Published, of_section
from cachegen.evaluation.results import Result

_TITLES = {
    "quality": "Quality against size",
    "scores": "Scores",
    "ttft": "Time to the first token",
    "slo": "Deadlines",
    "timeline": "One load over time",
    "ablation": "What each part is worth",
    "breakdown": "Where the time goes",
    "cost": "Cost",
}
_FINDINGS: dict[str, Callable[[Result], list[str]]] = {
    "quality": findings.quality,
    "scores": findings.scores,
    "ttft": findings.ttft,
    "slo": findings.slo,
    "timeline": findings.timeline,
    "ablation": findings.ablation,
    "breakdown": findings.breakdown,
    "cost": findings.cost,
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a section says of one run."""

    run: int
    result: Result
    pictures: Sequence[Picture]
    pairs: Sequence[tuple[Picture, Picture]]
    findings: Sequence[str]
    is_measured: bool


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the page."""

    name: str
    title: str
    parts: Sequence[Part]
    published: Sequence[Published]

    @property
    def is_measured(self) -> bool:
        """Whether any run has it."""
        return any(part.is_measured for part in self.parts)


def page(results: Sequence[Result]) -> str:
    """The page's text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(numbers.FILTERS)
    drawn_as = looks(figures.series(results))
    text: str = environment.get_template("report.html.jinja").render(
        results=results,
        opening=figures.opening(results, drawn_as),
        sections=[_section(name, results, drawn_as) for name in _TITLES],
        failures=any(result.failures for result in results),
        rivals=of_section("rivals"),
        claims=of_section("opening"),
        light=style_variables(dark=False),
        dark=style_variables(dark=True),
        full_bits=FULL_BITS,
        most_kl=figures.WORST_KL,
        least_kl=figures.BEST_KL,
        compared_kl=figures.COMPARED_KL,
        advice=advice,
        score_drop=score_drop,
        limits=findings.limits,
        least_ratio=least_ratio,
        left_out=left_out,
        mean_default=mean_default,
        ours=ours,
        default_rows=default_rows,
    )
    return text


def _section(name: str, results: Sequence[Result], drawn_as: figures.Looks) -> Section:
    parts = [_part(name, place, result, drawn_as) for place, result in enumerate(results, 1)]
    return Section(name, _TITLES[name], parts, of_section(name))


def _part(name: str, run: int, result: Result, drawn_as: figures.Looks) -> Part:
    key = f"{name}-{run}"
    draw: Mapping[str, Callable[[], Any]] = {
        "quality": lambda: figures.per_dataset(result, drawn_as, key=key),
        "scores": lambda: figures.scores(result, key=key),
        "ttft": lambda: figures.ttft(result, drawn_as, key=key),
        "slo": lambda: figures.slo(result, drawn_as, key=key),
        "ablation": lambda: figures.ablation(result, key=key),
        "breakdown": lambda: figures.breakdown(result, key=key),
    }
    return Part(
        run=run,
        result=result,
        pictures=draw[name]() if name in draw else (),
        pairs=figures.timeline(result, key=key) if name == "timeline" else (),
        findings=_FINDINGS[name](result) if name in _FINDINGS else (),
        is_measured=_is_measured(name, result),
    )


def _is_measured(name: str, result: Result) -> bool:
    if name == "scores":
        return any(row.score is not None for row in result.rows)
    return bool(getattr(result, "rows" if name == "quality" else name))
