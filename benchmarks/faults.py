"""A thousand loads through servers that die, stall, lie and forget: none may fail or be wrong.

    .venv/bin/python benchmarks/faults.py [--loads 1000] [--quick] [--json]

Every load goes from real `cachegen serve` processes through a proxy that breaks the traffic at
random bytes. Every chunk of every result is compared, bit for bit, with the decoded object of its
level, or with what the model computes on top of the cache before it. A load has `failed` when it
raises, or gives fewer tokens than are stored; it `hung` when it gives nothing within 20 s. Every
fourth load has no model: it may give fewer tokens or raise a `StoreError` where its fault struck,
and else at most find the store too slow to answer (`slow_store`). Some loads come in pairs that
share their downloads, half of the stalled ones do.
`fired` counts the loads that the fault struck: a load may be over before its fault is due. Every
run appends its rows to benchmarks/results/faults.csv; the exit status is 1 unless wrong_answers,
hung and failed are 0 and every fault fired.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from faults.benches import run_all
from faults.cases import plan
from faults.disk import full_disk
from faults.summary import is_clean, report, rows, summarise
from record import append

QUICK_LOADS = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--loads", type=int, default=1000, help="pairs count as one")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LOADS} loads, under 50 s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    loads = QUICK_LOADS if options.quick else options.loads
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = str(Path(folder, "cache"))
        began_s = time.perf_counter()
        outcomes = run_all(Path(folder), plan(loads, options.seed), seed=options.seed)
        seconds = time.perf_counter() - began_s
        disk = full_disk(Path(folder))
    summary = summarise(outcomes) | {"full_disk": disk, "seconds": round(seconds, 1)}
    append("faults", rows(summary, options.seed))
    report(summary, outcomes, as_json=options.json)
    sys.exit(0 if is_clean(summary) else 1)


if __name__ == "__main__":
    main()
