"""Many loads at once, and contexts of every length (figure 12 of the paper)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from loading_methods import INT8, MIN_TTFT, TEXT, Judge, run
from loading_world import Context, World, store_context

RATE_MBIT_S = 50.0
CONCURRENCY = (1, 2, 4, 8)
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8000)
METHODS = (TEXT, INT8, MIN_TTFT)
Row = dict[str, object]


def concurrency(judge: Judge) -> list[Row]:
    """The same context loaded by several at once; text is prefilled one after the other."""
    world, context = judge.world, judge.context
    world.link.set_rate(RATE_MBIT_S)
    return [
        _row("concurrency", method, count, context, _together(world, context, method, count))
        for count in CONCURRENCY
        for method in METHODS
    ]


def lengths(world: World, chunk_tokens: int) -> list[Row]:
    """One load at a time of ever longer contexts."""
    world.link.set_rate(RATE_MBIT_S)
    rows = []
    for num_tokens in LENGTHS:
        context = store_context(world, num_tokens=num_tokens, chunk_tokens=chunk_tokens)
        for method in METHODS:
            times = [run(world, context, method).ttft_s for _ in range(3)]
            rows.append(_row("length", method, 1, context, times))
    return rows


def _together(world: World, context: Context, method: str, count: int) -> list[float]:
    """Seconds of each of `count` loads that begin at once."""
    if method == TEXT:
        return _one_after_the_other(lambda: run(world, context, TEXT), count)
    with ThreadPoolExecutor(count) as pool:
        loads = [pool.submit(run, world, context, method) for _ in range(count)]
        return [load.result().ttft_s for load in loads]


def _one_after_the_other(action: Callable[[], object], count: int) -> list[float]:
    began_s, ends = time.perf_counter(), []
    for _ in range(count):
        action()
        ends.append(time.perf_counter() - began_s)
    return ends


def _row(sweep: str, method: str, count: int, context: Context, times: list[float]) -> Row:
    return {
        "sweep": sweep,
        "mbit_s": RATE_MBIT_S,
        "method": method,
        "context_tokens": len(context.tokens),
        "concurrency": count,
        "ttft_s": round(statistics.median(times), 5),
        "lookup_s": "",
        "fetch_s": "",
        "decode_s": "",
        "recompute_s": "",
        "slowest_s": round(max(times), 5),
        "bytes": "",
        "levels": "",
        "kl": "",
    }
