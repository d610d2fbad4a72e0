"""What a model's caches cost without a profile: bits and quality of every level.

.venv/bin/python benchmarks/uncalibrated.py --model DIR --data DIR [--windows N]
    [--levels NAME ...] [--json]

`--data` is a folder of text files (`*.txt`), each of which is a domain. The model runs in float32.
Rows `plain ...` are what came before `adaptive`, at its steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from cachegen.engines.transformers.quality import evaluator
from cachegen.engines.transformers.rope import rope_map
from rate.uncalibrated import encoders_of, measure, read_windows
from record import append


def main() -> None:
    arguments = _arguments()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    windows = read_windows(arguments.data, arguments.model, arguments.windows)
    judges = {name: evaluator(model, {name: found}) for name, found in windows.items()}
    encoders = encoders_of(rope_map(model))
    for level in arguments.levels or encoders:
        encode = encoders[level]
        rows = [
            {"model": arguments.model.name, "level": level, "domain": name}
            | measure(encode, judge, name)
            for name, judge in judges.items()
        ]
        append("uncalibrated", rows)
        for row in rows:
            text = (
                json.dumps(row) if arguments.json else " ".join(f"{k}={v}" for k, v in row.items())
            )
            print(text, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of text files, a domain each"
    )
    parser.add_argument("--windows", type=int, default=2, help="contexts of each domain")
    parser.add_argument("--levels", nargs="+", help="names; all of them without")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    return parser.parse_args()


if __name__ == "__main__":
    main()
