"""Time to first token over links of every rate: text, raw, 8-bit, CacheGen.

.venv/bin/python benchmarks/loading.py [--quick] [--json] [--data DIR] [--plot FILE]

The time is until the whole cache of the context is in memory; what follows is the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loading_methods import (
    ALGORITHM1,
    INT8,
    MIN_TTFT,
    TEXT,
    Judge,
    Timed,
    alternatives,
    gate,
    names,
    run,
)
from loading_sweeps import concurrency, lengths, starvation
from loading_world import opened_world, store_context
from record import append

Row = dict[str, object]
UNSHAPED = "unshaped"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rates: Mbit/s; None is the bare link.
        repeats: loads of each method at each rate, turn about.
        num_tokens: of the context.
        chunk_tokens: of its chunks.
        texts_a_rate: of them, prefills; the median is over those at all rates.
        crowds: how many loads at once, by which methods.
        sweeps: whether context lengths are swept too.
    """

    rates: tuple[float | None, ...]
    repeats: int
    texts_a_rate: int
    crowds: tuple[tuple[int, ...], tuple[str, ...]]
    num_tokens: int = 4096
    chunk_tokens: int = 1024
    sweeps: bool = False


QUICK = Effort((20, 50, 200, None), 3, 1, ((8,), ("min_ttft",)))
FULL = Effort(
    (5, 20, 50, 100, 200, 500, 1000, None),
    5,
    2,
    ((1, 2, 4, 8), ("text", "int8", "min_ttft")),
    sweeps=True,
)


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = folder
        rows, summary = measure(QUICK if arguments.quick else FULL, data=arguments.data)
    append("loading", rows)
    if arguments.plot:
        from loading_plot import plot

        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"rows": rows, "summary": summary}, indent=1))
    else:
        show(rows, summary)


def measure(effort: Effort, *, data: Path | None) -> tuple[list[Row], Row]:
    """Everything, behind the gate."""
    with opened_world(data=data) as world:
        context = store_context(
            world, num_tokens=effort.num_tokens, chunk_tokens=effort.chunk_tokens
        )
        gate(world, context, lambda method: _say(f"correct: {method}"))
        judge = Judge(world, context)
        found = {rate: at_rate(judge, rate, effort) for rate in effort.rates}
        texts = [load for loads in found.values() for load in loads[TEXT]]
        rows = [
            row(judge, method, rate, texts if method == TEXT else loads)
            for rate, by_method in found.items()
            for method, loads in by_method.items()
        ]
        summary = summarise(rows, judge)
        rows += concurrency(world, *effort.crowds)
        if effort.sweeps:
            rows += lengths(world, effort.chunk_tokens)
    return rows, summary | {"slowest_of_8_over_median": starvation(rows)}


def at_rate(judge: Judge, rate: float | None, effort: Effort) -> dict[str, list[Timed]]:
    """Every method over one link, turn about. Text needs no link: all rates share its runs."""
    judge.world.link.set_rate(rate)
    for method in (ALGORITHM1, MIN_TTFT):
        run(judge.world, judge.context, method)
    found: dict[str, list[Timed]] = {method: [] for method in names(judge.world)}
    for repeat in range(effort.repeats):
        for method, loads in found.items():
            if method != TEXT or repeat < effort.texts_a_rate:
                loads.append(run(judge.world, judge.context, method))
    _say(f"measured: {rate or UNSHAPED} Mbit/s")
    return found


def row(judge: Judge, method: str, rate: float | None, loads: Sequence[Timed]) -> Row:
    """The median load of a method, whole, and the KL of all of them at most."""
    timed = sorted(loads, key=lambda load: load.ttft_s)
    middle = timed[len(timed) // 2]
    return {
        "sweep": "rate",
        "mbit_s": rate or UNSHAPED,
        "method": method,
        "context_tokens": len(judge.context.tokens),
        "concurrency": 1,
        **{k: round(v, 5) for k, v in asdict(middle).items() if k.endswith("_s")},
        "slowest_s": round(timed[-1].ttft_s, 5),
        "bytes": middle.size_bytes,
        "levels": " ".join(middle.levels),
        "kl": round(max(judge.kl(load.levels) for load in timed), 6),
    }


def summarise(rows: Sequence[Row], judge: Judge) -> Row:
    """`min_ttft` against the best single alternative of every rate."""
    by_rate: dict[object, dict[str, float]] = {}
    for found in rows:
        by_rate.setdefault(found["mbit_s"], {})[str(found["method"])] = float(str(found["ttft_s"]))
    allowed = alternatives(judge.world)
    against = []
    for rate, times in by_rate.items():
        best = min(allowed, key=times.__getitem__)
        ours = times[MIN_TTFT]
        against.append(
            {
                "mbit_s": rate,
                "best": best,
                "ratio": round(ours / times[best], 3),
                "excess_ms": round(1e3 * (ours - times[best]), 2),
                "within": ours <= max(1.10 * times[best], times[best] + 0.010),
                "speedup": round(min(times[INT8], times[TEXT]) / ours, 2),
            }
        )
    top = max(against, key=lambda entry: entry["speedup"])
    return {
        "worst_ratio_to_best_alternative": max(entry["ratio"] for entry in against),
        "all_within_tolerance": all(entry["within"] for entry in against),
        "best_speedup_over_int8_and_text": top["speedup"],
        "at_mbit_s": top["mbit_s"],
        "by_rate": against,
    }


def show(rows: Sequence[Row], summary: Row) -> None:
    """A table for people."""
    from cachegen.cli.output import print_table

    columns = ["sweep", "mbit_s", "method", "context_tokens", "concurrency", "ttft_s", "fetch_s"]
    columns += ["decode_s", "recompute_s", "bytes", "kl"]
    print_table("loading", columns, [[str(found[c]) for c in columns] for found in rows])
    print(json.dumps(summary, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four rates, three repeats")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--data", type=Path, help="folder of *.txt to load from")
    parser.add_argument("--plot", type=Path, help="draw the rows into this file")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
