"""Every method over links of every rate, turn about, with more loads near the best time."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from loading.comparison import UNSHAPED, Row, compare, goodput_mbit_s, is_link_ok, median, summarise
from loading.methods import (
    EXTRA,
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
from loading.sweeps import concurrency, lengths, starvation
from loading.world import opened_world, store_context

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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
