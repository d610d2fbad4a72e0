"""The loading benchmark as a picture: time to first token over bandwidth, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

SHOWN = {
    "text": ("text (prefill)", "#888888"),
    "raw": ("raw bf16", "#b58900"),
    "int8": ("8-bit", "#cb4b16"),
    "high": ("CacheGen, default level", "#268bd2"),
    "algorithm1": ("Algorithm 1, deadline 0.3 s", "#6c71c4"),
    "min_ttft": ("CacheGen, adaptive", "#2aa198"),
}


def plot(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw the rows of the bandwidth sweep; both axes are logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    swept = [row for row in rows if row["sweep"] == "rate" and row["mbit_s"] != "unshaped"]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for method, (label, colour) in SHOWN.items():
        points = sorted(
            (float(str(row["mbit_s"])), float(str(row["ttft_s"])))
            for row in swept
            if row["method"] == method
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=label, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="link, Mbit/s", ylabel="time to the cache, s")
    axes.set_title(f"{swept[0]['context_tokens']} tokens, 4 M-parameter model, 2 cores")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
