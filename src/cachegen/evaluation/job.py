"""What is evaluated, and how much of it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cachegen.codec.profile import Profile
from cachegen.evaluation import datasets
from cachegen.evaluation.judge import Models
from cachegen.evaluation.methods.registry import METHODS
from cachegen.evaluation.sections.cost import ASSUMED, Prices


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        datasets: names.
        methods: names.
        context_tokens: the most tokens of a case.
        cases: of each dataset.
        learned_contexts: that methods learn from.
        ablated_cases: of one dataset, that the parts of the codec are measured on.
        timed_runs: that medians of times are taken of.
        is_quick: whether methods have few points.
    """

    datasets: Sequence[str]
    methods: Sequence[str]
    context_tokens: int
    cases: int
    learned_contexts: int
    ablated_cases: int
    timed_runs: int
    is_quick: bool


QUICK = Effort(
    datasets=("longchat", "triviaqa", "narrativeqa", "wikitext", "lines"),
    methods=(
        *("cachegen", "adaptive", "raw", "zstd", "uniform", "kivi", "paper", "kvtc", "kvserve"),
        *("snapkv", "snapkv+ours", "text", "broken"),
    ),
    context_tokens=1536,
    cases=2,
    learned_contexts=6,
    ablated_cases=2,
    timed_runs=3,
    is_quick=True,
)
FULL = Effort(
    datasets=datasets.names(),
    methods=tuple(METHODS),
    context_tokens=4096,
    cases=20,
    learned_contexts=24,
    ablated_cases=4,
    timed_runs=15,
    is_quick=False,
)


@dataclass(frozen=True, slots=True)
class Job:
    """What is evaluated.

    Attributes:
        name: of the model.
        models: the model, in both arithmetics.
        profile: of the model; None where there is none.
        data: folder of the datasets.
        out: folder of the outcomes.
        effort: how much.
        seed: of every random choice.
        command: as it was given, for the report.
        prices: of storing and computing, assumed.
    """

    name: str
    models: Models
    profile: Profile | None
    data: Path
    out: Path
    effort: Effort
    seed: int
    command: str
    prices: Prices = ASSUMED


def with_choices(
    effort: Effort,
    *,
    methods: Sequence[str],
    datasets: Sequence[str],
    context_tokens: int | None,
    cases: int | None,
) -> Effort:
    """The same with what a user chose; empty and None leave it."""
    return replace(
        effort,
        methods=tuple(methods) or effort.methods,
        datasets=tuple(datasets) or effort.datasets,
        context_tokens=context_tokens or effort.context_tokens,
        cases=cases or effort.cases,
    )
