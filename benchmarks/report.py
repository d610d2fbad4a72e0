"""One report of several models, from what `cachegen eval` has left in a folder for each.

.venv/bin/python benchmarks/report.py eval/reference eval/smollm2 --out docs/report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cachegen.evaluation.report import write_report
from cachegen.evaluation.results_json import read_results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="in the order of the report")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    found = [
        result for folder in options.folders for result in read_results(folder / "results.json")
    ]
    print(write_report(found, options.out))


if __name__ == "__main__":
    main()
