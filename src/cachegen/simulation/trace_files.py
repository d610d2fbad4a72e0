"""Reads traces from files: measured ones of the package, and others."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

from cachegen.simulation.trace import Trace, from_samples, step

_MBIT_PER_MIB = 1024 * 1024 * 8 / 1e6
# The JSON format has one rate a second, by its definition.
_CHUNK_S = 1.0


def shipped_folder() -> Path:
    """The folder of the package's traces."""
    return Path(str(files(__package__))) / "traces"


def shipped_names() -> tuple[str, ...]:
    """The names of the package's traces."""
    return tuple(sorted(path.stem for path in shipped_folder().glob("*.txt")))


def shipped_trace(name: str) -> Trace:
    """A trace of the package.

    Raises:
        ValueError: there is none of this name; the message lists the known ones.
    """
    if name not in shipped_names():
        raise ValueError(f"expected one of the traces {', '.join(shipped_names())}; got {name!r}")
    return read_traces(shipped_folder() / f"{name}.txt")[0]


def read_folder(folder: Path) -> list[Trace]:
    """All traces of all files below a folder, in the order of their names.

    Raises:
        ValueError: there is no file, or one is no trace.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise ValueError(f"expected a folder with traces, got {folder}")
    return [trace for path in paths for trace in read_traces(path)]


def read_traces(path: Path) -> list[Trace]:
    """Read the traces of a file, in the format that its content shows.

    Lines of `seconds Mbps`; or a CSV with columns `value` (MiB/s), `runtime` (s) and `VM_id`, a
    trace per machine; or JSON lines `{"bw": [Gbps, ...]}`, a trace per line, a second per rate.

    Raises:
        ValueError: the file has none of these formats; the message names it.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if text.startswith("{"):
            return _read_json_lines(text, path.name)
        if "," in text.partition("\n")[0]:
            return _read_csv(text, path.name)
        return [_read_columns(text, path.stem if path.suffix == ".txt" else path.name)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no bandwidth trace: {error}") from error


def _read_columns(text: str, name: str) -> Trace:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return from_samples(((float(seconds), float(rate)) for seconds, rate in rows), name=name)


def _read_csv(text: str, name: str) -> list[Trace]:
    machines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    rows = sorted(csv.DictReader(text.splitlines()), key=lambda row: row["starttime"])
    for row in rows:
        machines[row["VM_id"]].append((float(row["runtime"]), float(row["value"]) * _MBIT_PER_MIB))
    return [step(pieces, name=f"{name} {vm}") for vm, pieces in sorted(machines.items())]


def _read_json_lines(text: str, name: str) -> list[Trace]:
    traces = []
    for number, line in enumerate(text.splitlines()):
        rates = json.loads(line)["bw"]
        pieces = [(_CHUNK_S, 1e3 * float(rate)) for rate in rates]
        traces.append(step(pieces, name=f"{name} {number}"))
    return traces
