"""What a rate-quality study tells: progress, rows in CSV files, tables."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from rate.hostile import Hostile
from rate.measure import Row
from record import append

STARTED = time.perf_counter()


def record(
    rows: list[Row],
    wild: list[Hostile],
    summary: dict[str, object],
    *,
    quick: bool,
    study: str = "rate",
) -> None:
    """Append everything to CSV files; the rows of a run share a number."""
    run = {"run": int(time.time()), "quick": quick}
    append(f"{study}_quality", [run | rounded(asdict(row)) for row in rows])
    append(f"{study}_hostile", [run | rounded(asdict(row)) for row in wild])
    append(f"{study}_summary", [run | rounded(summary)])


def report(
    rows: list[Row], wild: list[Hostile], summary: dict[str, object], *, as_json: bool
) -> None:
    """One JSON object, or tables."""
    tables = {
        "rows": [rounded(asdict(row)) for row in rows],
        "hostile": [rounded(asdict(row)) for row in wild],
    }
    if as_json:
        print(json.dumps(tables | {"summary": rounded(summary)}))
        return
    for name, table in tables.items():
        print(f"\n{name}")
        print_table(table)
    print("\nsummary: the worst domain")
    for key, value in rounded(summary).items():
        print(f"  {key:30}{value}")


def print_table(rows: list[dict[str, object]]) -> None:
    """Columns as wide as their widest entry."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def rounded(fields: dict[str, object]) -> dict[str, object]:
    """Floats to five digits, lists of them too."""
    return {name: _rounded(value) for name, value in fields.items()}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def say(message: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"[{time.perf_counter() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)
