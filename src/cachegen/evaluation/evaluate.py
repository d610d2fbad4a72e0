"""An evaluation of one model from its folder to its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from cachegen.codec.levels import UNCALIBRATED_DEFAULT
from cachegen.engines.transformers.identity.fingerprint import fingerprint
from cachegen.evaluation import machine
from cachegen.evaluation.case import Case
from cachegen.evaluation.compared import cases_of, coders_of, method_context, ordinary
from cachegen.evaluation.job import Job
from cachegen.evaluation.methods.registry import METHODS, OURS
from cachegen.evaluation.outcomes import Outcomes
from cachegen.evaluation.results import Dataset, Failure, Method, Model, Part, Result
from cachegen.evaluation.rows import rows_of
from cachegen.evaluation.run import Run, Tell
from cachegen.evaluation.sections.make import Sections
from cachegen.evaluation.summary import summary_of
from cachegen.evaluation.times.speed import speed
from cachegen.kvcache import Geometry

_ADAPTIVE = "adaptive"
_PARTS = ("prefill", "encode", "decode")


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
    effort, models, profile = job.effort, job.models, job.profile
    failures: list[Failure] = []
    cases = cases_of(job, failures, tell)
    every = [case for own in cases.values() for case in own]
    context = method_context(job, tell)
    coders = list(coders_of(job, context, failures, tell))
    progress(0, len(every))
    outcomes = Outcomes(job.out / "outcomes.jsonl", _inputs(job))
    run = Run(models, coders, outcomes, tell, failures)
    for done in run.over(every):
        progress(done, len(every))
    rows = rows_of(outcomes.found, coders, cases, seed=job.seed)
    if not rows:
        raise ValueError("expected numbers of at least one method, got none: see what failed above")
    default = (OURS, profile.default_level) if profile else (_ADAPTIVE, UNCALIBRATED_DEFAULT)
    tokens = max(ordinary(cases), key=lambda case: len(case.context)).context
    kv = models.prefill(tokens)
    tell("time of coding against prefilling")
    timed = speed(models.prefill, profile, kv, tokens, runs=effort.timed_runs)
    sections = Sections(job, run, context, cases, rows, default, tokens, kv, timed)
    ttft, timeline = sections.loads()
    slo, steps, cost = sections.deadlines(), sections.ablation(), sections.cost()
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
        kl_arithmetic=_name(models.reader.dtype),
        prefill_arithmetic=_name(models.prefill.model.dtype),
        model=_described(job, context.geometry),
        summary=summary,
        versions=machine.versions(),
        methods={
            name: Method(METHODS[name].description, METHODS[name].source) for name in effort.methods
        },
        datasets={name: Dataset(_what(own), len(own)) for name, own in cases.items()},
        rows=tuple(rows),
        failures=tuple(failures),
        ttft=tuple(ttft),
        slo=tuple(slo),
        timeline=tuple(timeline),
        ablation=tuple(steps),
        breakdown=tuple(
            Part(name, timed[f"{name}_s"], timed[f"{name}_s"] / timed["prefill_s"])
            for name in _PARTS
        ),
        cost=tuple(cost),
    )


def _inputs(job: Job) -> dict[str, Any]:
    """What decides outcomes beside method, level and case; JSON gives it back as it is."""
    return {
        "model": fingerprint(job.models.writer).hex(),
        "profile": job.profile.hash.hex() if job.profile else "",
        "context_tokens": job.effort.context_tokens,
        "learned_contexts": job.effort.learned_contexts,
        "seed": job.seed,
        "prefilled_in": str(job.models.prefill.model.dtype),
        "versions": machine.versions(),
    }


def _described(job: Job, geometry: Geometry) -> Model:
    model = job.models.writer
    keys = geometry.planes[0]
    config = model.config.get_text_config(decoder=True)
    return Model(
        name=job.name,
        layers=geometry.num_layers,
        kv_heads=keys.heads,
        head_dim=keys.dim,
        values_per_token=geometry.values_per_token,
        dtype=_name(geometry.dtype),
        parameters=sum(one.numel() for one in model.parameters()),
        positions=int(getattr(config, "max_position_embeddings", 0) or 0),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _what(cases: Sequence[Case]) -> str:
    """What is measured on cases, in words."""
    scores = sorted({case.score for case in cases if case.score})
    return f"answers scored by {', '.join(scores)}" if scores else "perplexity of what follows"
