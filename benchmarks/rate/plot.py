"""The curves of the newest run in benchmarks/results/rate_quality.csv, as a figure."""

from __future__ import annotations

import csv
import sys
from itertools import groupby
from pathlib import Path

from record import RESULTS

PROMISED_KL = 0.003
STYLES = {
    "uniform": ("tab:gray", "x", "uniform, 3 to 8 bits"),
    "paper": ("tab:orange", "s", "paper preset"),
    "plain": ("tab:green", "^", "plain preset"),
    "kvtc": ("tab:red", "D", "KVTC style"),
    "transform": ("tab:blue", "o", "transform"),
}

Rows = list[dict[str, str]]


def plot(path: Path) -> None:
    """Bits per value against KL, a panel for each domain; the suffix of the file is its format."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rate_quality"
    from matplotlib import pyplot

    rows = newest_rows()
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(domains), figsize=(4 * len(domains), 3.8), sharey=True, squeeze=False
    )
    for panel, domain in zip(panels[0], domains, strict=True):
        _draw(panel, [row for row in rows if row["domain"] == domain])
        panel.set_title(domain)
    panels[0][0].set_ylabel("KL, nats per token")
    panels[0][-1].legend(fontsize="small", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(f"{path}: {len(rows)} points of run {rows[0]['run']}", file=sys.stderr)


def newest_rows() -> Rows:
    """The rows of the last run, full or quick."""
    path = RESULTS / "rate_quality.csv"
    if not path.exists():
        sys.exit(f"{path} does not exist: run benchmarks/rate_quality.py first")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["run"] == rows[-1]["run"]]


def _draw(panel: object, rows: Rows) -> None:
    for method, own in groupby(rows, key=lambda row: row["method"]):
        points = sorted((float(row["bits_per_value"]), float(row["kl"])) for row in own)
        colour, marker, label = STYLES[method]
        panel.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=4, label=label)
    panel.axhline(PROMISED_KL, color="black", lw=0.8, ls=":")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("bits per value")
    panel.set_xticks([0.1, 0.2, 0.5, 1, 2, 4, 8], ["0.1", "0.2", "0.5", "1", "2", "4", "8"])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
