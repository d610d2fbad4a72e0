"""Write the newest run of the loading benchmark into docs/benchmarks.md.

.venv/bin/python benchmarks/loading_table.py
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

from record import RESULTS, ROOT

MARKERS = re.compile(r"<!-- loading -->.*<!-- /loading -->", re.DOTALL)
COLUMNS = {
    "text": "text",
    "raw": "raw bf16",
    "int8": "8-bit",
    "high": "level `high`",
    "min_ttft": "adaptive",
}
Row = Mapping[str, str]


def main() -> None:
    page = ROOT / "docs" / "benchmarks.md"
    page.write_text(MARKERS.sub(table(newest_rows()), page.read_text()))


def newest_rows() -> list[Row]:
    """The rows of the bandwidth sweep of the last run: those after its first rate came last."""
    with (RESULTS / "loading.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sweep"] == "rate"]
    first = max(
        index
        for index, row in enumerate(rows)
        if row["method"] == "text" and row["mbit_s"] == rows[0]["mbit_s"]
    )
    return rows[first:]


def table(rows: list[Row]) -> str:
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        times.setdefault(row["mbit_s"], {})[row["method"]] = float(row["ttft_s"])
    lines = [
        "<!-- loading -->",
        f"| link, Mbit/s | {' | '.join(COLUMNS.values())} | adaptive: gain |",
        "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for rate, found in times.items():
        cells = [f"{1e3 * found[method]:,.0f} ms" for method in COLUMNS]
        gain = min(found["text"], found["int8"]) / found["min_ttft"]
        name = rate if rate == "unshaped" else f"{float(rate):g}"
        lines.append(f"| {name} | {' | '.join(cells)} | {gain:.1f}x |")
    lines += [
        "",
        f"Time until the whole cache of {rows[0]['context_tokens']} tokens is in memory, medians "
        f"of interleaved loads of the 4 M-parameter model on {rows[0]['machine']}, over a link "
        "between two network namespaces; the gain is over the better of text and 8-bit. "
        "`benchmarks/loading.py` measures, `benchmarks/loading_table.py` writes this table. "
        "![time over bandwidth](loading.svg)",
        "<!-- /loading -->",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
