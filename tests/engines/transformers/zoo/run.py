"""Put every architecture through the checks: `python -m tests.engines.transformers.zoo.run`.

With `--write`, what came out becomes what is expected, and the table of docs/architectures.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.engines.transformers.zoo.architectures import ARCHITECTURES
from tests.engines.transformers.zoo.outcome import Outcome
from tests.engines.transformers.zoo.table import markdown
from tests.engines.transformers.zoo.workers import outcomes

EXPECTED = Path(__file__).with_name("expected.json")
TABLE = Path(__file__).parents[4] / "docs" / "architectures.md"


def main() -> None:
    options = _options()
    if options.list:
        print(json.dumps(list(ARCHITECTURES)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = folder
        found = _examined(options.names or list(ARCHITECTURES), processes=options.processes)
    if options.results:
        options.results.write_text(json.dumps([asdict(outcome) for outcome in found]))
    if options.write:
        expected = {one.name: [one.outcome, one.rotation, one.note] for one in found}
        EXPECTED.write_text(_lines(expected))
        TABLE.write_text(markdown(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all")
    parser.add_argument("--list", action="store_true", help="only list the names, as JSON")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="JSON file for the outcomes")
    parser.add_argument("--write", action="store_true", help="write what is expected and the table")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ARCHITECTURES):
        parser.error(f"expected names that --list prints, got {', '.join(sorted(unknown))}")
    if options.write and options.names:
        parser.error("expected --write with all architectures, got some of them")
    return options


def _examined(names: list[str], *, processes: int) -> list[Outcome]:
    found = {}
    for count, outcome in enumerate(outcomes(names, processes=processes), start=1):
        found[outcome.name] = outcome
        told = f"{count}/{len(names)} {outcome.name}: {outcome.outcome} {outcome.note}"
        print(told, file=sys.stderr, flush=True)
    return [found[name] for name in sorted(names)]


def _lines(expected: dict[str, list[str]]) -> str:
    """JSON with an architecture a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
