"""Speed and size of the entropy coder beside zstd -3 and constriction, behind a parity gate.

    .venv/bin/python benchmarks/kernels.py [--quick] [--json]

Every speed is a median of interleaved runs on one core, in millions of symbols per second. zstd
codes the same symbols, one byte each, in the order in which they lie in memory (row by row; the
figures named `zstd_columns` are for column by column); constriction codes a sample of them with
the same tables.
The speedup of two threads, in bursts of calls, stands beside what two independent processes gain
on the same cores.
The top level of the JSON object is the data set where decoding beats zstd by less. Every run
appends its rows to benchmarks/results/kernels.csv; CACHEGEN_KERNELS chooses another kernel set.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from cachegen import refmodel
from kernels.data import coefficients, excerpts, laplacian, shipped_text
from kernels.measure import Results, check_parity, measure
from record import append


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs, under 50 seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--model", type=Path, default=refmodel.weights_path())
    parser.add_argument("--profile", type=Path, default=refmodel.profile_path("plain"))
    parser.add_argument("--data", type=Path, help="folder of *.txt; default: the shipped novels")
    options = parser.parse_args()
    runs = 31 if options.quick else 101
    data = [laplacian()]
    missing = [
        path for path in (options.model / "config.json", options.profile) if not path.exists()
    ]
    if missing:
        print(f"{missing[0]} does not exist: no coefficients are measured", file=sys.stderr)
    else:
        text = refmodel.read_texts(options.data) if options.data else shipped_text()
        data.append(coefficients(options.model, options.profile, excerpts(text)))
    for one in data:
        check_parity(one)
    results = {one.name: measure(one, runs) for one in data}
    append_rows(results, options.quick)
    report(results, as_json=options.json)


def append_rows(results: dict[str, Results], quick: bool) -> None:
    """Add a row per data set to the CSV file."""
    versions = {name: version(name) for name in ("numpy", "zstandard", "constriction")}
    rows = [
        {"python": platform.python_version(), **versions, "quick": quick, "data": name}
        | rounded(one)
        for name, one in results.items()
    ]
    append("kernels", rows)


def rounded(results: Results) -> Results:
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in results.items()
    }


def report(results: dict[str, Results], *, as_json: bool) -> None:
    """Print what was measured."""
    worse = min(results, key=lambda name: results[name]["decode_over_zstd"])
    if as_json:
        absent = {name: None for name in ("laplacian", "coefficients") if name not in results}
        data = {name: rounded(one) for name, one in results.items()} | absent
        print(json.dumps(rounded(results[worse]) | {"worse": worse, "data": data}))
        return
    for name, one in results.items():
        print(f"{name}:")
        for key, value in rounded(one).items():
            print(f"  {key:32}{value}")


if __name__ == "__main__":
    main()
