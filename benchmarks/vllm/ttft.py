"""Time to first token of vLLM's server, cold, from its own cache, and through CacheGen's connector.

.venv-vllm/bin/python benchmarks/vllm/ttft.py [--quick] [--json] [--only MODEL] [--lmcache PYTHON]

Two servers run side by side, vLLM alone and vLLM with the connector, whose store is
`cachegen serve` behind a link of 1000 down to 20 Mbit/s; one request is under way at a time. A
prompt is a text of 4,096 tokens and a question of 32, another one each time. Methods:

- `cold`: vLLM alone, its cache of prefixes emptied by its endpoint `/reset_prefix_cache`.
- `local`: vLLM alone, the text in that cache.
- `cachegen`: with the connector at its defaults, the text stored, that cache emptied as before.
- `cachegen_first`: the same, the first load after the rate has fallen, which learned a faster link.
- `lmcache`: vLLM with LMCache's server, whose second tier is a Redis behind the link, its memory
  on this machine emptied too. PYTHON is that of an environment with vLLM and LMCache: the README of
  this folder says how it is made.
- `miss_alone`, `miss`: new prompts, without and with the connector, which looks them up and saves
  them; in pairs.

Before anything is measured the loaded text must be right: `serving/sweep.py`, `gate`. SmolLM2 is
that of `make models`, with its profile (CACHEGEN_SMOLLM2=DIR for another folder); `bytes` and
`hit_tokens` of loads are the connector's own counts.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving import lmcache
from serving.prompts import models
from serving.report import Row, rows_beside, rows_of, summary_of
from serving.sweep import FULL, QUICK, measure


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers end with their blocks
    arguments = _arguments()
    effort = QUICK if arguments.quick else FULL
    rows: list[Row] = []
    found = {}
    for model in models(arguments.only):
        with tempfile.TemporaryDirectory() as folder:
            found[model.name] = measure(model, effort, Path(folder))
        rows += rows_of(model.name, found[model.name], effort)
        if arguments.lmcache:
            with tempfile.TemporaryDirectory() as folder:
                beside = lmcache.measure(model, effort, Path(folder), arguments.lmcache)
            rows += rows_beside(model.name, beside, found[model.name].prompt_tokens)
    summary = summary_of(found)
    _record(rows)
    if arguments.json:
        print(json.dumps({"rows": rows, "summary": summary}, indent=1))
    else:
        show(rows, summary)


def show(rows: Sequence[Row], summary: Row) -> None:
    """A table for people."""
    from cachegen.cli.output import print_table

    print_table("ttft", list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    print(json.dumps(summary, indent=1))


def _record(rows: Sequence[dict[str, Any]]) -> None:
    """`record.py` lies above; in front of the path, its neighbour `vllm` would hide vLLM."""
    sys.path.append(str(Path(__file__).parents[1]))
    from record import append

    append("vllm_ttft", rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three loads a rate, one prefill")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", help="one model: smollm2-135m or reference-4m")
    parser.add_argument("--lmcache", type=Path, help="python with vLLM and LMCache: beside ours")
    return parser.parse_args()


if __name__ == "__main__":
    main()
