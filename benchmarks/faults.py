"""A thousand loads through servers that die, stall, lie and forget: none may fail or be wrong.

    .venv/bin/python benchmarks/faults.py [--loads 1000] [--quick] [--json]

Every load goes from real `cachegen serve` processes through a proxy that breaks the traffic at
random bytes. Every chunk of every result is compared, bit for bit, with the decoded object of its
level, or with what the model computes on top of the cache before it. A load has `failed` when it
raises, or gives fewer tokens than are stored; it `hung` when it gives nothing within 20 s. Every
fourth load has no model: it may give fewer tokens or raise a `StoreError` where its fault struck,
and else at most find the store too slow to answer (`slow_store`). Some loads come in pairs that
share their downloads, half of the stalled ones do.
`fired` counts the loads that the fault struck: a load may be over before its fault is due. Every
run appends its rows to benchmarks/results/faults.csv; the exit status is 1 unless wrong_answers,
hung and failed are 0 and every fault fired.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from fault_cases import WEIGHTS, plan
from fault_disk import full_disk
from fault_loads import Bench, Outcome, open_bench, open_both
from fault_proxy import LOOPBACK
from fault_servers import TOKEN, expired, serving, write_tokens
from fault_truth import Truth, prepare
from record import append

from cachegen.store import Store, open_store

BENCHES = 5
QUICK_LOADS = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--loads", type=int, default=1000, help="pairs count as one")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LOADS} loads, under 50 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    loads = QUICK_LOADS if options.quick else options.loads
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = str(Path(folder, "cache"))
        began_s = time.perf_counter()
        outcomes = run_all(Path(folder), plan(loads, options.seed), seed=options.seed)
        seconds = time.perf_counter() - began_s
        disk = full_disk(Path(folder))
    summary = summarise(outcomes) | {"full_disk": disk, "seconds": round(seconds, 1)}
    append("faults", rows(summary, options.seed))
    report(summary, outcomes, as_json=options.json)
    sys.exit(0 if is_clean(summary) else 1)


def run_all(folder: Path, faults: Sequence[str], *, seed: int) -> list[Outcome]:
    """Every load, on whichever bench is free."""
    todo: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
    for item in (*enumerate(faults), *[None] * BENCHES):
        todo.put(item)
    outcomes: list[Outcome] = []

    def work(bench: Bench) -> None:
        while (item := todo.get()) is not None:
            outcomes.extend(bench.run(*item, seed=seed))

    with benches(folder) as ready:
        threads = [threading.Thread(target=work, args=(bench,)) for bench in ready]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return outcomes


@contextmanager
def benches(folder: Path) -> Iterator[list[Bench]]:
    """The benches, each with a server of its own, all with the same contexts."""
    original, tokens = folder / "original", write_tokens(folder / "tokens.json")
    truth = fill(original, tokens)
    with ExitStack() as stack:
        server = expired(original, folder, "--tenants", str(tokens))
        others: dict[str, Sequence[Store]] = {
            "expired_certificate": open_both(stack.enter_context(server).port, TOKEN, tls="s"),
            "dead": open_both(stack.enter_context(closed_port()), TOKEN),
        }
        yield [
            stack.enter_context(
                open_bench(truth, original, folder / str(n), tokens=tokens, others=others)
            )
            for n in range(BENCHES)
        ]


def fill(folder: Path, tokens: Path) -> Truth:
    """Save the contexts through a server, as its tenant."""
    with serving(folder, "--tenants", str(tokens)) as server:
        return prepare(open_store(f"cachegen://{TOKEN}@{LOOPBACK}:{server.port}"))


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is taken, but at which nobody listens."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        yield taken.getsockname()[1]


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


if __name__ == "__main__":
    main()
