"""How many loads meet their deadlines on links that vary by ten times while a load goes on.

Deadlines are multiples of what an oracle needs that knows the trace: the earliest end at default
quality or better, a lower bound for any controller (`cachegen.simulation.oracle`). Everything
runs in the simulator; draws are seeded, so that equal commits give equal numbers. Controllers
know what a load ten seconds before saw of the link, and the machine's speed to within a fifth.
A recomputed chunk is no better than what it was computed on: it counts as the worst chunk before.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import record
import slo_worlds as worlds
from slo_gate import check

from cachegen.codec.levels import LOSSLESS, TEXT
from cachegen.codec.profile import Profile
from cachegen.simulation.engine import TICK_S, simulate
from cachegen.simulation.scenario import Request, SimulatedLoad
from cachegen.simulation.specs import Policy, parse_policy
from cachegen.simulation.trials import known_bytes_per_s

ADAPTIVE = "min_ttft"
ADAPTING = [parse_policy(name) for name in (ADAPTIVE, "algorithm1")]
FIXED = [parse_policy(name) for name in (*(f"fixed:{level}" for level in worlds.LEVELS), TEXT)]
QUEUE_BYTES = 64 << 10
ROOM = {"normal": (1.2, 3.0), "tight": (1.0, 1.2)}


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy's load, and how it was judged."""

    machine: str
    family: str
    policy: str
    deadlines: str
    oracle_s: float
    load: SimulatedLoad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer loads")
    parser.add_argument("--loads", type=int, help="of each kind of trace and machine")
    parser.add_argument("--data", type=Path, help="folder of further traces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    check(seed=arguments.seed)
    profile = worlds.shipped_profile()
    num_loads = arguments.loads or (40 if arguments.quick else 250)
    machines = (
        worlds.large_model(),
        worlds.reference_model(profile, num_tokens=4096 if arguments.quick else 8064),
    )
    began = time.perf_counter()
    trials = list(run(machines, num_loads=num_loads, data=arguments.data, seed=arguments.seed))
    kl = quality(profile)
    result = {
        "summary": summary(trials, kl),
        "rows": rows(trials, kl),
        "loads_per_s": round(len(trials) / (time.perf_counter() - began)),
    }
    record.append("slo", result["rows"])
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def quality(profile: Profile) -> dict[str, float]:
    """Nats per token of each level, as calibration measured them."""
    known = {level.name: level.quality.kl for level in profile.levels if level.quality}
    return {**known, LOSSLESS: 0.0}


def run(
    machines: Sequence[worlds.Machine], *, num_loads: int, data: Path | None, seed: int
) -> Iterator[Trial]:
    """Every policy on the same links with the same deadlines."""
    for machine in machines:
        for family, make in worlds.families(data).items():
            draw = random.Random(f"{seed} {machine.name} {family}")
            for _ in range(num_loads):
                case = worlds.draw_case(family, make, machine, draw)
                blind = {policy.name: load_of(policy, machine, case) for policy in FIXED}
                for deadlines, (low, high) in ROOM.items():
                    slo_s = case.oracle_s * draw.uniform(low, high)
                    seeing = {p.name: load_of(p, machine, case, slo_s=slo_s) for p in ADAPTING}
                    for name, load in {**seeing, **blind}.items():
                        judged = replace(load, slo_s=slo_s)
                        yield Trial(machine.name, family, name, deadlines, case.oracle_s, judged)


def load_of(
    policy: Policy, machine: worlds.Machine, case: worlds.Case, *, slo_s: float | None = None
) -> SimulatedLoad:
    """One load; without a deadline it never looks at a transfer under way."""
    context = machine.context if policy.is_stored else machine.context.without_options()
    return simulate(
        Request(context, policy.controller, machine.costs, slo_s=slo_s, believed=case.believed),
        trace=case.trace,
        start_s=case.start_s,
        known_bytes_per_s=known_bytes_per_s(case.trace, case.start_s),
        queue_bytes=QUEUE_BYTES,
        tick_s=case.oracle_s if slo_s is None else TICK_S,
    )


def met(trials: Sequence[Trial]) -> float:
    return round(sum(trial.load.met for trial in trials) / len(trials), 4)


def mean_kl(trials: Sequence[Trial], kl: dict[str, float]) -> float:
    """Over all chunks of all loads."""
    return statistics.fmean(one for trial in trials for one in kl_of_chunks(trial.load.levels, kl))


def kl_of_chunks(levels: Sequence[str], kl: dict[str, float]) -> Iterator[float]:
    """Of each chunk; one that was recomputed counts as the worst before it, or as exact."""
    worst = 0.0
    for level in levels:
        yield worst if level == TEXT else kl[level]
        worst = max(worst, kl.get(level, 0.0))


def summary(trials: Sequence[Trial], kl: dict[str, float]) -> dict[str, object]:
    """Adaptive loads against the best fixed choice that is no worse in quality."""
    normal = [trial for trial in trials if trial.deadlines == "normal"]
    by_policy = {policy.name: _of(normal, policy.name) for policy in (*ADAPTING, *FIXED)}
    adaptive = by_policy[ADAPTIVE]
    adaptive_kl = mean_kl(adaptive, kl)
    fixed = {
        policy.name: by_policy[policy.name]
        for policy in FIXED
        if mean_kl(by_policy[policy.name], kl) <= adaptive_kl
    }
    best = max(fixed, key=lambda name: met(fixed[name]))
    default = by_policy[f"fixed:{worlds.DEFAULT_LEVEL}"]
    tight = [trial for trial in trials if trial.deadlines == "tight"]
    return {
        "loads": len(adaptive),
        "met_adaptive": met(adaptive),
        "met_best_fixed": met(fixed[best]),
        "best_fixed": best,
        "met_text": met(by_policy[TEXT]),
        "met_algorithm1": met(by_policy["algorithm1"]),
        "met_tight_adaptive": met(_of(tight, ADAPTIVE)),
        "mean_kl_adaptive": adaptive_kl,
        "mean_kl_best_fixed": mean_kl(fixed[best], kl),
        "met_fixed_default": met(default),
        "mean_kl_fixed_default": mean_kl(default, kl),
    }


def rows(trials: Sequence[Trial], kl: dict[str, float]) -> list[dict[str, object]]:
    """One for each machine, family, kind of deadline and policy."""
    groups: dict[tuple[str, str, str, str], list[Trial]] = {}
    for trial in trials:
        key = (trial.machine, trial.family, trial.deadlines, trial.policy)
        groups.setdefault(key, []).append(trial)
    return [
        {
            "context": machine,
            "trace": family,
            "deadlines": deadlines,
            "policy": policy,
            "loads": len(group),
            "met": met(group),
            "mean_kl": round(mean_kl(group, kl), 6),
            "ttft_over_oracle": round(
                statistics.median(trial.load.ttft_s / trial.oracle_s for trial in group), 3
            ),
            "mean_bytes": round(statistics.fmean(trial.load.received_bytes for trial in group)),
        }
        for (machine, family, deadlines, policy), group in groups.items()
    ]


def _of(trials: Sequence[Trial], policy: str) -> list[Trial]:
    return [trial for trial in trials if trial.policy == policy]


def show(result: dict[str, object]) -> None:
    for row in result["rows"]:
        print(
            "{context:30} {trace:8} {deadlines:7} {policy:15} met {met:6.1%}  KL {mean_kl:8.5f}"
            "  {ttft_over_oracle:6.2f} x oracle  {mean_bytes:>12,} bytes".format(**row)
        )
    print(json.dumps(result["summary"], indent=2))
    print(f"{result['loads_per_s']} loads a second", file=sys.stderr)


if __name__ == "__main__":
    main()
