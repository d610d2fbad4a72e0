"""An evaluation of one model from its folder to its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cachegen.codec.levels import UNCALIBRATED_DEFAULT
from cachegen.codec.profile import Profile
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.engines.transformers.rope import rope_map
from cachegen.errors import CacheGenError
from cachegen.evaluation import datasets, machine
from cachegen.evaluation.case import Case
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.judge import Models
from cachegen.evaluation.learned import texts_to_learn_from
from cachegen.evaluation.methods.registry import METHODS, OURS, TEXTS, MethodContext, make
from cachegen.evaluation.outcomes import Outcomes
from cachegen.evaluation.results import Dataset, Failure, Method, Model, Moment, Part, Result, Ttft
from cachegen.evaluation.rows import rows_of
from cachegen.evaluation.run import Run, Tell
from cachegen.evaluation.summary import summary_of
from cachegen.evaluation.times import loads
from cachegen.evaluation.times.speed import speed
from cachegen.kvcache import Geometry

_ADAPTIVE = "adaptive"
_PARTS = ("prefill", "encode", "decode")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        datasets: names.
        methods: names.
        context_tokens: the most tokens of a case.
        cases: of each dataset.
        learned_contexts: that methods learn from.
        timed_runs: that medians of times are taken of.
        is_quick: whether methods have few points.
    """

    datasets: Sequence[str]
    methods: Sequence[str]
    context_tokens: int
    cases: int
    learned_contexts: int
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
    timed_runs=3,
    is_quick=True,
)
FULL = Effort(
    datasets=datasets.names(),
    methods=tuple(METHODS),
    context_tokens=4096,
    cases=20,
    learned_contexts=24,
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
    """

    name: str
    models: Models
    profile: Profile | None
    data: Path
    out: Path
    effort: Effort
    seed: int
    command: str


def evaluate(
    job: Job, *, tell: Tell, progress: Callable[[int, int], None] = lambda done, total: None
) -> Result:
    """Measure what is not known yet, and put everything together.

    Args:
        job: what is evaluated.
        tell: told what is done.
        progress: called with (cases done, cases in total).

    Raises:
        ValueError: names that nobody knows, files that are missing, outcomes of other inputs in
            the folder, or no method that gives any numbers.
    """
    effort, models = job.effort, job.models
    failures: list[Failure] = []
    cases = _cases(job, failures, tell)
    every = [case for own in cases.values() for case in own]
    coders = list(_coders(job, failures, tell))
    progress(0, len(every))
    outcomes = Outcomes(job.out / "outcomes.jsonl", _inputs(job))
    run = Run(models, coders, outcomes, tell, failures)
    for done in run.over(every):
        progress(done, len(every))
    ttft, timeline = _loads(job, every, failures, tell)
    rows = rows_of(outcomes.found, coders, cases, seed=job.seed)
    if not rows:
        raise ValueError("expected numbers of at least one method, got none: see what failed above")
    timed = _speed(job, every, tell)
    profile = job.profile
    default = (OURS, profile.default_level) if profile else (_ADAPTIVE, UNCALIBRATED_DEFAULT)
    summary = summary_of(
        rows,
        outcomes.found,
        default=default,
        noise_floor=profile.noise_floor if profile else None,
        speed=timed,
        seed=job.seed,
    )
    return Result(
        command=job.command,
        commit=machine.commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine.machine(),
        seed=job.seed,
        quick=effort.is_quick,
        kl_arithmetic=str(models.reader.dtype).removeprefix("torch."),
        model=_described(job),
        summary=summary,
        versions=machine.versions(),
        methods={
            name: Method(METHODS[name].description, METHODS[name].source) for name in effort.methods
        },
        datasets={name: Dataset(_what(own), len(own)) for name, own in cases.items()},
        rows=tuple(rows),
        failures=tuple(failures),
        ttft=tuple(ttft),
        timeline=tuple(timeline),
        breakdown=tuple(
            Part(name, timed[f"{name}_s"], timed[f"{name}_s"] / timed["prefill_s"])
            for name in _PARTS
        ),
    )


def _cases(job: Job, failures: list[Failure], tell: Tell) -> dict[str, list[Case]]:
    """By dataset; one that cannot be made is noted, and the others go on.

    Raises:
        ValueError: none can, or a name is unknown.
    """
    effort, found = job.effort, dict[str, list[Case]]()
    datasets.missing_files(effort.datasets, job.data)  # refuses unknown names at once
    for name in effort.datasets:
        try:
            found |= datasets.load(
                [name],
                job.data,
                job.models.tokenizer,
                context_tokens=effort.context_tokens,
                count=effort.cases,
                seed=job.seed,
            )
        except ValueError as exc:
            failures.append(Failure(f"dataset {name}", "", str(exc)))
            tell(f"dataset {name} is left out: {exc}")
    if not found:
        raise ValueError(f"expected cases of one dataset at least, got none: {failures[0].reason}")
    return found


def _coders(job: Job, failures: list[Failure], tell: Tell) -> Iterator[Coder]:
    """Of every method; one that cannot be made is noted, and the others go on."""
    models, effort = job.models, job.effort
    texts: Sequence[tuple[int, ...]] = ()
    learning = [name for name in effort.methods if name in METHODS and TEXTS in METHODS[name].needs]
    if learning:
        tell("texts to learn from")
        try:
            texts = texts_to_learn_from(
                models.tokenizer,
                job.data,
                num_tokens=effort.context_tokens,
                count=effort.learned_contexts,
            )
        except (OSError, ValueError) as exc:
            tell(f"nothing to learn from, so no {', '.join(learning)}: {exc}")
    context = MethodContext(
        model=models.writer,
        geometry=_geometry(models.writer),
        rope=rope_map(models.writer),
        texts=texts,
        profile=job.profile,
    )
    make(effort.methods, context)  # refuses unknown names at once
    for name in effort.methods:
        if name == OURS and job.profile is None:
            tell(f"{OURS} is left out: the model has no profile; `cachegen calibrate` makes one")
            continue
        tell(f"method {name}")
        try:
            yield from list(make([name], context, quick=effort.is_quick))
        except Exception as exc:  # whatever a method does, the others go on
            failures.append(Failure(name, "", str(exc)))
            tell(f"{name} FAILED: {exc}")


def _geometry(model: Any) -> Geometry:
    return capture(model, [0]).geometry


def _inputs(job: Job) -> dict[str, Any]:
    """What decides outcomes beside method, level and case; JSON gives it back as it is."""
    return {
        "model": fingerprint(job.models.writer).hex(),
        "profile": job.profile.hash.hex() if job.profile else "",
        "context_tokens": job.effort.context_tokens,
        "learned_contexts": job.effort.learned_contexts,
        "seed": job.seed,
        "versions": machine.versions(),
    }


def _speed(job: Job, cases: Sequence[Case], tell: Tell) -> Mapping[str, float]:
    """Of coding the longest context at the default level."""
    tell("time of coding against prefilling")
    tokens = max(cases, key=lambda case: len(case.context)).context
    writer = job.models.writer
    kv = capture(writer, tokens)
    return speed(writer, job.profile, kv, tokens, runs=job.effort.timed_runs)


def _loads(
    job: Job, cases: Sequence[Case], failures: list[Failure], tell: Tell
) -> tuple[Sequence[Ttft], Sequence[Moment]]:
    """Of the longest context; a machine without links costs these numbers only."""
    tokens = max(cases, key=lambda case: len(case.context)).context
    wanted = loads.QUICK if job.effort.is_quick else loads.FULL
    try:
        return loads.timed_loads(job.models.writer, job.profile, tokens, wanted, tell)
    except (CacheGenError, OSError) as exc:
        failures.append(Failure("times of loads", "", str(exc)))
        tell(f"times of loads are left out: {exc}")
        return (), ()


def _described(job: Job) -> Model:
    model, geometry = job.models.writer, _geometry(job.models.writer)
    keys = geometry.planes[0]
    config = model.config.get_text_config(decoder=True)
    return Model(
        name=job.name,
        layers=geometry.num_layers,
        kv_heads=keys.heads,
        head_dim=keys.dim,
        values_per_token=geometry.values_per_token,
        dtype=str(geometry.dtype).removeprefix("torch."),
        parameters=sum(one.numel() for one in model.parameters()),
        positions=int(getattr(config, "max_position_embeddings", 0) or 0),
    )


def _what(cases: Sequence[Case]) -> str:
    """What is measured on cases, in words."""
    scores = sorted({case.score for case in cases if case.score})
    return f"answers scored by {', '.join(scores)}" if scores else "perplexity of what follows"


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
