"""What became of the loads, counted by fault."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from faults.cases import WEIGHTS
from faults.loads import Outcome


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The counts, altogether, by fault, and of the loads in other company than usual."""
    by_fault = {
        name: count([outcome for outcome in outcomes if outcome.fault == name]) for name in WEIGHTS
    }
    without_model = [outcome for outcome in outcomes if not outcome.company.has_model]
    in_pairs = [outcome for outcome in outcomes if len(outcome.company.starts_s) > 1]
    return count(outcomes) | {
        "by_fault": by_fault,
        "without_model": count(without_model)
        | {
            "ended_early": sum(outcome.ended_early for outcome in without_model),
            "slow_store": sum(one.ended_early and not one.fired for one in without_model),
        },
        "in_pairs": count(in_pairs),
    }


def count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many loads, and how many of each outcome."""
    times = sorted(outcome.ttft_s for outcome in outcomes if outcome.ttft_s) or [0.0]
    return {
        "loads": len(outcomes),
        "wrong_answers": sum(outcome.verdict == "wrong" for outcome in outcomes),
        "hung": sum(outcome.verdict == "hung" for outcome in outcomes),
        "failed": sum(outcome.verdict == "failed" for outcome in outcomes),
        "fired": sum(outcome.fired for outcome in outcomes),
        "retried_chunks": sum(outcome.retried for outcome in outcomes),
        "relevelled_chunks": sum(outcome.relevelled for outcome in outcomes),
        "recomputed_chunks": sum(outcome.recomputed for outcome in outcomes),
        "median_ttft_s": round(times[len(times) // 2], 3),
        "slowest_ttft_s": round(times[-1], 3),
    }


def is_clean(summary: dict[str, Any]) -> bool:
    """Whether nothing was wrong, hung or failed, and every fault struck at least once."""
    fired = all(counts["fired"] for name, counts in summary["by_fault"].items() if name != "none")
    tried = summary["without_model"]["loads"] and summary["in_pairs"]["loads"]
    good = tried and not any(summary[name] for name in ("wrong_answers", "hung", "failed"))
    return bool(good and fired and summary["full_disk"].get("intact", True))


def rows(summary: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """One for each fault."""
    return [{"seed": seed, "fault": name} | counts for name, counts in summary["by_fault"].items()]


def report(summary: dict[str, Any], outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print the counts; what went wrong goes to standard error."""
    for outcome in outcomes:
        if outcome.verdict != "ok":
            print(f"{outcome.fault}: {outcome.verdict}: {outcome.detail}", file=sys.stderr)
    if as_json:
        print(json.dumps(summary))
        return
    columns = list(summary["by_fault"]["none"])
    print(f"{'fault':20}", *(f"{name:>17}" for name in columns))
    total = {name: summary[name] for name in columns}
    for name, counts in (summary["by_fault"] | {"all": total}).items():
        print(f"{name:20}", *(f"{counts[column]:17}" for column in columns))
    for name in ("without_model", "in_pairs", "full_disk"):
        print(f"{name}: {summary[name]}")
