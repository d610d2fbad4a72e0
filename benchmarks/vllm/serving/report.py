"""Rows and a summary of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from serving.client import Timed
from serving.sweep import Effort, Found, Sample, pairwise_overhead

Row = dict[str, Any]
SPEEDUP_RATE = 100


def rows_of(name: str, found: Found, effort: Effort) -> list[Row]:
    """All rows of a model."""
    row = partial(_row, name)
    rows = [
        row("cold", None, Sample(found.cold), found.prompt_tokens),
        row("local", None, Sample(found.local), found.prompt_tokens),
    ]
    for rate, sample in found.warm.items():
        rows.append(row("cachegen", rate, sample, found.prompt_tokens))
        rows.append(row("cachegen_first", rate, found.first[rate], found.prompt_tokens))
    for method, place in (("miss_alone", 0), ("miss", 1)):
        times = [time for pair in found.misses for time in pair[place]]
        rows.append(row(method, None, Sample(times), effort.miss_tokens))
    return rows


def rows_beside(name: str, loads: Mapping[int, Sample], prompt_tokens: int) -> list[Row]:
    """Rows of LMCache."""
    return [_row(name, "lmcache", rate, loads[rate], prompt_tokens) for rate in loads]


def _row(name: str, method: str, rate: int | None, sample: Sample, prompt_tokens: int) -> Row:
    times = [time.ttft_s for time in sample.times]
    hits = sample.loaded_tokens / len(times) or median_hit(sample.times)
    return {
        "model": name,
        "mbit_s": rate,
        "method": method,
        "prompt_tokens": prompt_tokens,
        "ttft_s_p50": round(statistics.median(times), 4),
        "ttft_s_p95": round(quantile(times, 0.95), 4),
        "bytes": round(sample.loaded_bytes / len(times)),
        "hit_tokens": round(hits),
        "requests": len(times),
    }


def summary_of(found: Mapping[str, Found]) -> Row:
    """Of the first model, and `by_model` of each; ratios to cold are the worst of all."""
    each = {name: _summary(of_model) for name, of_model in found.items()}
    first = next(iter(each.values()))
    worst = max(one["worst_ratio_to_cold"] for one in each.values())
    return {**first, "worst_ratio_to_cold": worst, "by_model": each}


def _summary(found: Found) -> Row:
    cold_s = statistics.median(time.ttft_s for time in found.cold)
    at_100 = statistics.median(time.ttft_s for time in found.warm[SPEEDUP_RATE].times)
    warm = [time.ttft_s for sample in found.warm.values() for time in sample.times]
    first = [time.ttft_s for sample in found.first.values() for time in sample.times]
    return {
        "speedup_at_100": round(cold_s / at_100, 2),
        "worst_ratio_to_cold": round(max(*warm, *first) / cold_s, 3),
        "worst_ratio_to_cold_after_the_first": round(max(warm) / cold_s, 3),
        "miss_overhead": round(pairwise_overhead(found.misses), 4),
        "lookup_us_p50": round(statistics.median(found.lookups_us), 1),
        "link": found.link,
    }


def median_hit(times: Sequence[Timed]) -> float:
    """What vLLM itself says of a prompt's tokens."""
    return statistics.median(time.hit_tokens for time in times)


def quantile(values: Sequence[float], share: float) -> float:
    """Between the two nearest values, in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
