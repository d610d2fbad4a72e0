"""Time to first token over links of every rate: text, raw, 8-bit, CacheGen.

.venv/bin/python benchmarks/loading.py [--quick] [--json] [--data DIR] [--plot FILE]

The time is until the whole cache of the context is in memory; what follows is the same for all.
Every row is the median of its `runs`; there are more of those near the best time, where
milliseconds decide. Text needs no link: the rows of all rates show the same pooled runs. The link
itself is judged by what `raw` gets of it: a rate at which that is not 0.8 to 1.0 of what was set is
measured once more, and marked where it still is not.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loading.comparison import Row
from loading.rates import FULL, QUICK, measure
from record import append


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = folder
        rows, summary = measure(QUICK if arguments.quick else FULL, data=arguments.data)
    append("loading", rows)
    if arguments.plot:
        from loading.plot import plot

        plot(rows, arguments.plot)
    if arguments.json:
        print(json.dumps({"rows": rows, "summary": summary}, indent=1))
    else:
        show(rows, summary)


def show(rows: Sequence[Row], summary: Row) -> None:
    """A table for people."""
    from cachegen.cli.output import print_table

    columns = ["sweep", "mbit_s", "method", "context_tokens", "concurrency", "runs", "ttft_s"]
    columns += ["fetch_s", "decode_s", "recompute_s", "bytes", "goodput_mbit_s", "link_ok", "kl"]
    print_table("loading", columns, [[str(found[c]) for c in columns] for found in rows])
    print(json.dumps(summary, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four rates, three repeats")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--data", type=Path, help="folder of *.txt to load from")
    parser.add_argument("--plot", type=Path, help="draw the rows into this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
