"""How many deadlines were met, and at which quality."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from cachegen.codec.levels import LOSSLESS, TEXT
from cachegen.codec.profile import Profile
from cachegen.simulation.quality import kl_of_chunks
from deadlines import worlds
from deadlines.trials import ADAPTING, ADAPTIVE, FIXED, Trial


def quality(profile: Profile) -> dict[str, float]:
    """Nats per token of each level, as calibration measured them."""
    known = {level.name: level.quality.kl for level in profile.levels if level.quality}
    return {**known, LOSSLESS: 0.0}


def met(trials: Sequence[Trial]) -> float:
    return round(sum(trial.load.met for trial in trials) / len(trials), 4)


def mean_kl(trials: Sequence[Trial], kl: dict[str, float]) -> float:
    """Over all chunks of all loads."""
    return statistics.fmean(one for trial in trials for one in kl_of_chunks(trial.load.levels, kl))


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
