"""The rate-quality study on the shipped model: every method on every domain, answers, time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cachegen import refmodel
from cachegen.cli.models import load_model
from cachegen.codec.profile import Profile, read_profile
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.tasks import answers_right
from cachegen.evaluation.coder import Coder
from cachegen.evaluation.methods.kvtc import kvtc_coders
from cachegen.evaluation.methods.presets import paper_coders, plain_coders, profile_coder
from cachegen.evaluation.methods.uniform import uniform_coders
from cachegen.evaluation.times.speed import speed
from rate.ablation import between_levels
from rate.measure import Row, check, evaluators, lost_and_gained, measure_all
from rate.report import say
from rate.texts import Domains, domains, learning_samples


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    windows: int
    task_contexts: int
    learned_contexts: int
    hostile_contexts: int
    timed_runs: int


QUICK = Effort(windows=16, task_contexts=10, learned_contexts=24, hostile_contexts=2, timed_runs=15)
FULL = Effort(windows=64, task_contexts=42, learned_contexts=60, hostile_contexts=8, timed_runs=51)


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """The model, its profile, and the text to measure on."""

    model: Any
    tokenizer: Any
    profile: Profile
    domains: Domains
    effort: Effort


def prepare(effort: Effort, data: Path | None) -> Study:
    """Load everything and cut the text."""
    say("model and text")
    model, tokenizer = load_model(refmodel.weights_path())
    found = domains(
        tokenizer, num_windows=effort.windows, num_tasks=effort.task_contexts, data=data
    )
    profile = read_profile(refmodel.profile_path("transform"))
    return Study(model, tokenizer, profile, found, effort)


def curves(study: Study) -> list[Row]:
    """All methods on all domains, after the gate."""
    tokens = study.domains.windows["novels"][0].context
    kv = capture(study.model, tokens)
    every = list(coders(study))
    say("checking that every coder gives back what it got")
    for coder in every:
        check(coder, kv, tokens)
    say("reference runs")
    judges = evaluators(study.model, study.domains.windows)
    rows = []
    for found in measure_all(every, judges):
        rows += found
        figures = (f"{row.domain} {row.bits_per_value:.3f} bits, KL {row.kl:.5f}" for row in found)
        say(f"{found[0].method} {found[0].level}: {'; '.join(figures)}")
    return rows


def coders(study: Study) -> Iterator[Coder]:
    """Every method at every level; the baselines learn here."""
    say("learning the baselines")
    learned = learning_samples(study.model, study.tokenizer, count=study.effort.learned_contexts)
    caches, rope = [sample.kv for sample in learned], rope_map(study.model)
    for level in study.profile.levels:
        yield profile_coder("transform", study.profile, level.name)
    if study.effort is FULL:
        yield from between_levels(study.profile, learned)
    yield from uniform_coders(study.profile.geometry)
    yield from kvtc_coders(caches, rope)
    yield from plain_coders(caches, rope)
    yield from paper_coders(caches)


def exact_match(study: Study) -> dict[str, object]:
    """Right answers from caches at the default level, and from uncompressed ones."""
    say("answering questions")
    tasks = study.domains.tasks
    caches = [capture(study.model, task.context) for task in tasks]
    coder = profile_coder("transform", study.profile, study.profile.default_level)
    before, after = (
        np.asarray(answers_right(study.model, tasks, coding, study.tokenizer, caches=caches))
        for coding in (None, coder.roundtrip)
    )
    return {
        "default_exact_match": float(after.mean()),
        "uncompressed_exact_match": float(before.mean()),
        "exact_match_n": len(before),
        "exact_match_lost": int((before & ~after).sum()),
        "exact_match_gained": int((~before & after).sum()),
        "exact_match_change_95": list(lost_and_gained(before, after)),
    }


def timing(study: Study) -> dict[str, float]:
    """Speed of the default level on a context of novels."""
    say("timing")
    tokens = study.domains.windows["novels"][0].context
    kv = capture(study.model, tokens)
    return speed(
        lambda ids: capture(study.model, ids),
        study.profile,
        kv,
        tokens,
        runs=study.effort.timed_runs,
    )
