"""Every section as CSV, one file each, with the model and the run of every line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cachegen.evaluation.results import (
    Cost,
    Failure,
    Moment,
    Part,
    Result,
    Row,
    Slo,
    Step,
    Ttft,
)

# Sections of a result and what their lines are.
SECTIONS: dict[str, type] = {
    "rows": Row,
    "ttft": Ttft,
    "slo": Slo,
    "timeline": Moment,
    "ablation": Step,
    "breakdown": Part,
    "cost": Cost,
    "failures": Failure,
}
_RUN = (
    *("date", "commit", "machine", "seed", "quick"),
    *("kl_arithmetic", "prefill_arithmetic", "command"),
)


def write_tables(results: Sequence[Result], out: Path) -> list[Path]:
    """A file for every section, with a header alone where nothing was measured.

    Returns:
        The files.
    """
    paths = []
    for section, kind in SECTIONS.items():
        path = out / f"{section}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["model", *_columns(kind), *_RUN])
            writer.writeheader()
            writer.writerows(_lines(results, section))
        paths.append(path)
    return paths


def _columns(kind: type) -> list[str]:
    found: list[str] = []
    for one in fields(kind):
        ends = one.name.endswith("_interval")
        found += [f"{one.name}_low", f"{one.name}_high"] if ends else [one.name]
    return found


def _lines(results: Sequence[Result], section: str) -> Iterator[dict[str, Any]]:
    for result in results:
        run = {name: getattr(result, name) for name in _RUN}
        for line in getattr(result, section):
            yield {"model": result.model.name, **_flat(asdict(line)), **run}


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """Intervals as two columns."""
    found = {}
    for name, value in line.items():
        if name.endswith("_interval"):
            found[f"{name}_low"], found[f"{name}_high"] = value or (None, None)
        else:
            found[name] = value
    return found
