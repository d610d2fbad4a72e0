"""64 clients of four tenants that use and misuse a server for long: nothing may be wrong, or grow.

    .venv/bin/python benchmarks/soak.py [--minutes 10] [--clients 64] [--json]

A real `cachegen serve` over TLS, with a capacity that makes it evict, quotas and an index, is
ended by SIGTERM and SIGKILL again and again during the first part of the run; in the rest one
process lives, whose memory, open files and threads are watched. Clients save, load, put, delete,
give up and misbehave at random, and check all that they get: caches against what the stored level
decodes to, or the model computes; other objects by their keys, which tell their bytes. At the end
every acknowledged object must be whole or evicted (none of the tenant that takes less than an equal
part of the capacity), every context that is found whole, and metrics, index and disk must agree.
Progress goes to standard error; the exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from soak_world.run import Soak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64, help="a fourth of them of each tenant")
    parser.add_argument("--pause-s", type=float, default=0.5, help="how long a client thinks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CACHEGEN_CACHE_DIR"] = str(Path(folder, "cache"))
        soak = Soak(
            Path(folder),
            minutes=options.minutes,
            clients=options.clients,
            pause_s=options.pause_s,
            seed=options.seed,
        )
        summary = soak.run()
    if options.json:
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name}: {json.dumps(value)}")
    sys.exit(1 if summary["wrong"] else 0)


if __name__ == "__main__":
    main()
