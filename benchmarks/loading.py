"""Time to first token over links of every rate: text, raw, 8-bit, CacheGen.

.venv/bin/python benchmarks/loading.py [--quick] [--json] [--data DIR] [--plot FILE]

The time is until the whole cache of the context is in memory; what follows is the same for all.
Every row is the median of its `runs`; there are more of those near the best time, where
milliseconds decide. Text needs no link: the rows of all rates show the same pooled runs. The link
itself is judged by what `raw` gets of it: a rate at which that is not 0.8 to 1.0 of what was set is
measured once more, and marked where it still is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from loading_methods import (
    COLD,
    EXTRA,
    INT8,
    MIN_TTFT,
    RAW,
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
LINK_SHARE = (0.8, 1.0)
NEAR = 1.5


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rates: Mbit/s; None is the bare link.
        repeats: loads of each method at each rate, turn about.
        contest_s: how long the methods near the best time then go on, at each rate.
        texts: prefills, spread over the rates.
        crowds: how many loads at once, by which methods.
        num_tokens: of the context.
        chunk_tokens: of its chunks.
        extra: further methods.
        sweeps: whether context lengths are swept too.
    """

    rates: tuple[float | None, ...]
    repeats: int
    contest_s: float
    texts: int
    crowds: tuple[tuple[int, ...], tuple[str, ...]]
    num_tokens: int = 4096
    chunk_tokens: int = 1024
    extra: tuple[str, ...] = ()
    sweeps: bool = False


QUICK = Effort((20, 50, 200, None), 3, 0.3, 3, ((8,), ("min_ttft",)))
FULL = Effort(
    (5, 20, 50, 100, 200, 500, 1000, None),
    5,
    6.0,
    16,
    ((1, 2, 4, 8), ("text", "int8", "min_ttft")),
    extra=EXTRA,
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
        methods = names(world, effort.extra)
        gate(world, context, methods, lambda method: _say(f"correct: {method}"))
        judge = Judge(world, context)
        found = {
            rate: at_rate(judge, rate, methods, num_texts, effort)
            for rate, num_texts in zip(effort.rates, spread(effort), strict=True)
        }
        texts = [load for loads in found.values() for load in loads[TEXT]]
        rows = [
            row(judge, method, rate, by_method | {TEXT: texts})
            for rate, by_method in found.items()
            for method in methods
        ]
        allowed = alternatives(world, effort.extra)
        against = [
            compare(rate, by_method | {TEXT: texts}, allowed) for rate, by_method in found.items()
        ]
        summary = summarise(against) | {"text_runs_pooled_over_rates": len(texts)}
        rows += concurrency(world, *effort.crowds)
        if effort.sweeps:
            rows += lengths(world, effort.chunk_tokens)
    return rows, summary | {"slowest_of_8_over_median": starvation(rows)}


def spread(effort: Effort) -> list[int]:
    """How many prefills at each rate."""
    share = effort.texts / len(effort.rates)
    edges = [round(share * number) for number in range(len(effort.rates) + 1)]
    return [stop - start for start, stop in pairwise(edges)]


def at_rate(
    judge: Judge, rate: float | None, methods: Sequence[str], num_texts: int, effort: Effort
) -> dict[str, list[Timed]]:
    """Every method over one link, once more where the link was not what was asked for."""
    judge.world.link.set_rate(rate)
    found = turn_about(judge, methods, (effort.repeats, num_texts))
    if not is_link_ok(rate, found):
        _say(f"again, since the link gave {goodput_mbit_s(median(found[RAW])):.1f} of {rate}")
        found = turn_about(judge, methods, (effort.repeats, num_texts))
    contest(judge, found, alternatives(judge.world, effort.extra), effort.contest_s)
    _say(f"measured: {rate or UNSHAPED} Mbit/s")
    return found


def turn_about(
    judge: Judge, methods: Sequence[str], counts: tuple[int, int]
) -> dict[str, list[Timed]]:
    """So many loads by each method in turn, and so many prefills.

    Raw comes early, from which the others know the link.
    """
    repeats, num_texts = counts
    found: dict[str, list[Timed]] = {method: [] for method in methods}
    for repeat in range(repeats):
        for method, loads in found.items():
            if method != TEXT or repeat < num_texts:
                loads.append(run(judge.world, judge.context, method))
    return found


def contest(
    judge: Judge, found: Mapping[str, list[Timed]], allowed: Sequence[str], seconds: float
) -> None:
    """Further loads of `min_ttft` and of the alternatives near the best time, turn about."""
    times = {method: median(loads).ttft_s for method, loads in found.items() if loads}
    rivals = [method for method in (*allowed, MIN_TTFT) if method != TEXT]
    limit_s = NEAR * min(times[method] for method in rivals)
    near = [method for method in rivals if times[method] <= limit_s or method == MIN_TTFT]
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        for method in near:
            found[method].append(run(judge.world, judge.context, method))


def median(loads: Sequence[Timed]) -> Timed:
    """The load in the middle, whole."""
    return sorted(loads, key=lambda load: load.ttft_s)[len(loads) // 2]


def goodput_mbit_s(load: Timed) -> float:
    """Of its chunks, while any was being fetched."""
    return load.size_bytes * 8e-6 / load.fetch_s if load.fetch_s else 0.0


def is_link_ok(rate: float | None, by_method: Mapping[str, Sequence[Timed]]) -> bool:
    """Whether raw chunks came about as fast as the link was to let them."""
    low, high = LINK_SHARE
    return rate is None or low <= goodput_mbit_s(median(by_method[RAW])) / rate <= high


def row(
    judge: Judge, method: str, rate: float | None, by_method: Mapping[str, Sequence[Timed]]
) -> Row:
    """The median load of a method, whole, and the KL of all of them at most."""
    loads = by_method[method]
    middle = median(loads)
    return {
        "sweep": "rate",
        "mbit_s": rate or UNSHAPED,
        "method": method,
        "context_tokens": len(judge.context.tokens),
        "concurrency": 1,
        "runs": len(loads),
        **{k: round(v, 5) for k, v in asdict(middle).items() if k.endswith("_s")},
        "slowest_s": round(max(load.ttft_s for load in loads), 5),
        "bytes": middle.size_bytes,
        "goodput_mbit_s": round(goodput_mbit_s(middle), 2),
        "link_ok": is_link_ok(rate, by_method),
        "levels": " ".join(middle.levels),
        "kl": round(max(judge.kl(load.levels) for load in loads), 6),
    }


def summarise(against: Sequence[Row]) -> Row:
    """`min_ttft` against the best single alternative of every rate."""
    top = max(against, key=lambda entry: float(str(entry["speedup"])))
    return {
        "worst_ratio_to_best_alternative": max(float(str(one["ratio"])) for one in against),
        "all_within_tolerance": all(one["within"] for one in against),
        "all_links_ok": all(one["link_ok"] for one in against),
        "best_speedup_over_int8_and_text": top["speedup"],
        "at_mbit_s": top["mbit_s"],
        "by_rate": against,
    }


def compare(
    rate: float | None, by_method: Mapping[str, Sequence[Timed]], allowed: Sequence[str]
) -> Row:
    """`min_ttft` against the alternative that it looks worst against, at one rate.

    Both as medians over the rounds in which both were loaded, since the machine changes its speed.
    """
    ours, times = by_method[MIN_TTFT], {}
    for method in allowed:
        theirs = by_method[method]
        common = ours if method == TEXT else ours[: len(theirs)]
        times[method] = (median(common).ttft_s, median(theirs).ttft_s)
    best = max(allowed, key=lambda method: times[method][0] / times[method][1])
    ours_s, theirs_s = times[best]
    found: Row = {
        "mbit_s": rate or UNSHAPED,
        "link_ok": is_link_ok(rate, by_method),
        "raw_goodput_mbit_s": round(goodput_mbit_s(median(by_method[RAW])), 2),
        "best": best,
        "ratio": round(ours_s / theirs_s, 3),
        "excess_ms": round(1e3 * (ours_s - theirs_s), 2),
        "within": ours_s <= max(1.10 * theirs_s, theirs_s + 0.010),
        "speedup": round(min(times[method][1] / times[method][0] for method in (INT8, TEXT)), 2),
    }
    cold = by_method.get(COLD)
    return found | ({"cold_ms": round(1e3 * median(cold).ttft_s, 2)} if cold else {})


def show(rows: Sequence[Row], summary: Row) -> None:
    """A table for people."""
    from cachegen.cli.output import print_table

    columns = ["sweep", "mbit_s", "method", "context_tokens", "concurrency", "runs", "ttft_s"]
    columns += ["fetch_s", "decode_s", "recompute_s", "bytes", "goodput_mbit_s", "link_ok", "kl"]
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
