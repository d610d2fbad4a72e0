"""Benchmark rows in CSV files, each with its commit, date and machine."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def append(name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Append rows of one run to `results/NAME.csv`; all rows of a file have the same columns."""
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    known = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": cpu_name(),
        "torch": version("torch"),
    }
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*known, *rows[0]])
        if is_new:
            writer.writeheader()
        writer.writerows({**known, **row} for row in rows)
    return path


def commit() -> str:
    """The commit of the working tree, marked where it was changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu_name() -> str:
    """The processor's model and its count."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{len(names)} x {names[0] if names else platform.processor()}"
