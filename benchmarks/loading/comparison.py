"""Medians of loads, whether the link was as asked for, and `min_ttft` against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loading.methods import COLD, INT8, MIN_TTFT, RAW, TEXT, Timed

Row = dict[str, object]
UNSHAPED = "unshaped"
LINK_SHARE = (0.8, 1.0)


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
