"""Many loads at once, and contexts of every length (figure 12 of the paper)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from loading.methods import INT8, MIN_TTFT, TEXT, prefill, run
from loading.world import Context, World, store_context

RATE_MBIT_S = 50.0
CONCURRENCY = (1, 2, 4, 8)
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8000)
METHODS = (TEXT, INT8, MIN_TTFT)
CROWDS = LOADS = 3
CROWD_TOKENS, CROWD_CHUNK_TOKENS = 512, 128
_MODEL = threading.Lock()
Row = dict[str, object]


def concurrency(world: World, counts: Sequence[int], methods: Sequence[str]) -> list[Row]:
    """Different contexts loaded at once, which share link, decoder and model.

    They have no deadline, so that no level below the default one is of use.
    """
    world.link.set_rate(None)
    contexts = [
        store_context(
            world,
            num_tokens=CROWD_TOKENS,
            chunk_tokens=CROWD_CHUNK_TOKENS,
            first=number * 500,
            least_level=world.profile.default_level,
        )
        for number in range(max(counts))
    ]
    world.link.set_rate(RATE_MBIT_S)
    rows = []
    for count in counts:
        for method in methods:
            crowds = [_together(world, contexts[:count], method) for _ in range(CROWDS)]
            typical = sorted(crowds, key=_spread)[CROWDS // 2]
            rows.append(_row("concurrency", method, count, contexts[0], typical, runs=CROWDS))
    return rows


def starvation(rows: Sequence[Row]) -> float:
    """The slowest of the most loads at once over their median, in the median crowd."""
    crowd = max(
        (row for row in rows if row["sweep"] == "concurrency" and row["method"] == MIN_TTFT),
        key=lambda row: int(str(row["concurrency"])),
    )
    return round(float(str(crowd["slowest_s"])) / float(str(crowd["ttft_s"])), 3)


def lengths(world: World, chunk_tokens: int) -> list[Row]:
    """One load at a time of ever longer contexts."""
    world.link.set_rate(RATE_MBIT_S)
    rows = []
    for num_tokens in LENGTHS:
        context = store_context(world, num_tokens=num_tokens, chunk_tokens=chunk_tokens)
        for method in METHODS:
            times = [run(world, context, method).ttft_s for _ in range(LOADS)]
            rows.append(_row("length", method, 1, context, times, runs=LOADS))
    return rows


def _together(world: World, contexts: Sequence[Context], method: str) -> list[float]:
    """Seconds of each load, all begun at once; text waits for its turn at the model."""
    began_s = time.perf_counter()

    def one(context: Context) -> float:
        if method == TEXT:
            with _MODEL:
                prefill(world, context)
            return time.perf_counter() - began_s
        return run(world, context, method).ttft_s

    with ThreadPoolExecutor(len(contexts)) as pool:
        return list(pool.map(one, contexts))


def _spread(times: Sequence[float]) -> float:
    return max(times) / statistics.median(times)


def _row(
    sweep: str, method: str, count: int, context: Context, times: list[float], *, runs: int
) -> Row:
    return {
        "sweep": sweep,
        "mbit_s": RATE_MBIT_S,
        "method": method,
        "context_tokens": len(context.tokens),
        "concurrency": count,
        "runs": runs,
        "ttft_s": round(statistics.median(times), 5),
        "lookup_s": "",
        "fetch_s": "",
        "decode_s": "",
        "recompute_s": "",
        "slowest_s": round(max(times), 5),
        "bytes": "",
        "goodput_mbit_s": "",
        "link_ok": "",
        "levels": "",
        "kl": "",
    }
