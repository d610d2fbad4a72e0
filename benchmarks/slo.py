"""How many loads meet their deadlines on links that vary by ten times while a load goes on.

Deadlines are multiples of what an oracle needs that knows the trace: the earliest end at default
quality or better, a lower bound for any controller (`cachegen.simulation.oracle`). Everything
runs in the simulator; draws are seeded, so that equal commits give equal numbers. Controllers
know what a load ten seconds before saw of the link, and the machine's speed to within a fifth.
A recomputed chunk is no better than what it was computed on: it counts as the worst chunk before.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from deadlines import worlds
from deadlines.gate import check
from deadlines.summary import quality, rows, summary
from deadlines.trials import run
from record import append


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer loads")
    parser.add_argument("--loads", type=int, help="of each kind of trace and machine")
    parser.add_argument("--data", type=Path, help="folder of further traces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    check(seed=arguments.seed)
    profile = worlds.shipped_profile()
    num_loads = arguments.loads or (40 if arguments.quick else 250)
    machines = (
        worlds.large_model(),
        worlds.reference_model(profile, num_tokens=4096 if arguments.quick else 8064),
    )
    began = time.perf_counter()
    trials = list(run(machines, num_loads=num_loads, data=arguments.data, seed=arguments.seed))
    kl = quality(profile)
    result = {
        "summary": summary(trials, kl),
        "rows": rows(trials, kl),
        "loads_per_s": round(len(trials) / (time.perf_counter() - began)),
    }
    append("slo", result["rows"])
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def show(result: dict[str, object]) -> None:
    for row in result["rows"]:
        print(
            "{context:30} {trace:8} {deadlines:7} {policy:15} met {met:6.1%}  KL {mean_kl:8.5f}"
            "  {ttft_over_oracle:6.2f} x oracle  {mean_bytes:>12,} bytes".format(**row)
        )
    print(json.dumps(result["summary"], indent=2))
    print(f"{result['loads_per_s']} loads a second", file=sys.stderr)


if __name__ == "__main__":
    main()
