"""Bits per value against quality, for every method, on text that no profile has seen.

    .venv/bin/python benchmarks/rate_quality.py [--quick] [--json] [--data DIR]
    .venv/bin/python benchmarks/rate_quality.py --plot FILE.svg

Every method is given 1,536 tokens of context; all bytes it stores count, the profile apart. KL,
perplexity and top-1 agreement are those of the next 128 tokens. Domains: novels, technical English,
generated retrieval tasks. All methods learn from the same text. Coders that do not decode the same
twice, or decode for other tokens, end the run before anything is measured.

`--quick` takes under 5 minutes: 16 windows a domain, 240 questions. The full run takes 64 windows
and 1,008 questions. Rows are appended to benchmarks/results/rate_quality.csv and
rate_summary.csv; `--plot` draws the newest run of the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rate_ablation import between_levels
from rate_baselines import paper_coders, plain_coders, profile_coder, uniform_coders
from rate_coder import Coder
from rate_curves import summarise
from rate_hostile import Hostile, hostile
from rate_kvtc import kvtc_coders
from rate_measure import Row, check, evaluators, lost_and_gained, measure_all
from rate_speed import speed
from rate_texts import Domains, domains, learning_samples
from record import append

from cachegen import refmodel
from cachegen.cli.models import load_model
from cachegen.codec.profile import Profile, read_profile
from cachegen.engines.transformers.cache import capture
from cachegen.engines.transformers.rope import rope_map
from cachegen.engines.transformers.tasks import answers_right


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 5 minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--data", type=Path, help="folder of *.txt: more novels to measure on")
    parser.add_argument("--model", type=Path, help="folder of another model; needs --data")
    parser.add_argument("--profile", type=Path, help="of --model; its folder's own by default")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the newest rows, no run")
    options = parser.parse_args()
    if options.plot:
        from rate_plot import plot

        plot(options.plot)
        return
    if options.model:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from rate_models import study as study_model

        found = study_model(
            options.model, options.data, options.profile, quick=options.quick, say=say
        )
        record(*found, quick=options.quick, study="model")
        report(*found, as_json=options.json)
        return
    effort = QUICK if options.quick else FULL
    study = prepare(effort, options.data)
    rows = curves(study)
    say("hostile inputs")
    wild = hostile(study.model, study.tokenizer, study.profile, contexts=effort.hostile_contexts)
    summary = summarise(rows, study.profile.default_level) | exact_match(study) | timing(study)
    summary |= {
        "kl_arithmetic": str(study.profile.geometry.dtype).removeprefix("torch."),
        "noise_floor_kl": study.profile.noise_floor,
    }
    record(rows, wild, summary, quick=options.quick)
    report(rows, wild, summary, as_json=options.json)


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
    return speed(study.model, study.profile, kv, tokens, runs=study.effort.timed_runs)


def record(
    rows: list[Row],
    wild: list[Hostile],
    summary: dict[str, object],
    *,
    quick: bool,
    study: str = "rate",
) -> None:
    """Append everything to CSV files; the rows of a run share a number."""
    run = {"run": int(time.time()), "quick": quick}
    append(f"{study}_quality", [run | rounded(asdict(row)) for row in rows])
    append(f"{study}_hostile", [run | rounded(asdict(row)) for row in wild])
    append(f"{study}_summary", [run | rounded(summary)])


def report(
    rows: list[Row], wild: list[Hostile], summary: dict[str, object], *, as_json: bool
) -> None:
    """One JSON object, or tables."""
    tables = {
        "rows": [rounded(asdict(row)) for row in rows],
        "hostile": [rounded(asdict(row)) for row in wild],
    }
    if as_json:
        print(json.dumps(tables | {"summary": rounded(summary)}))
        return
    for name, table in tables.items():
        print(f"\n{name}")
        print_table(table)
    print("\nsummary: the worst domain")
    for key, value in rounded(summary).items():
        print(f"  {key:30}{value}")


def print_table(rows: list[dict[str, object]]) -> None:
    """Columns as wide as their widest entry."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def rounded(fields: dict[str, object]) -> dict[str, object]:
    """Floats to five digits, lists of them too."""
    return {name: _rounded(value) for name, value in fields.items()}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def say(message: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"[{time.perf_counter() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)


STARTED = time.perf_counter()

if __name__ == "__main__":
    main()
