"""What it costs to know a model: the first fingerprint, later ones, and the probe.

.venv/bin/python benchmarks/identity.py [--model DIR] [--json]

With `--model` a transformers model, else the one that comes with the package, and always one of
an 8 B model's layers (Llama 3, one of its 32, random weights), whose first fingerprint times 32
tells what the whole of it costs. Medians; processor time where it says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cachegen.cores import available_cores
from cachegen.engines.transformers import capture, fingerprint
from cachegen.engines.transformers.probe import support_of
from cachegen.refmodel import weights_path
from record import append

_RUNS = 15
_PREFILL_TOKENS = 512


def main() -> None:
    arguments = _arguments()
    rows = [measure(arguments.model.name, load(arguments.model)), measure("llama3-8b/32", layer())]
    append("identity", rows)
    for row in rows:
        print(json.dumps(row) if arguments.json else " ".join(f"{k}={v}" for k, v in row.items()))


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def layer() -> Any:
    """One layer of an 8 B model, without most of its vocabulary."""
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def measure(name: str, model: Any) -> dict[str, object]:
    """One row, after a check that a write is noticed."""
    _gate(model)
    tensors = [*model.parameters(), *model.buffers()]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    first_s = _median(lambda: fingerprint(model, fresh=True), time.perf_counter, runs=3)
    again_s = _median(lambda: fingerprint(model), time.process_time)
    probe_s = _median(lambda: _probe_anew(model), time.perf_counter, runs=3)
    known_s = _median(lambda: support_of(model), time.process_time)
    ids = list(range(100, 100 + _PREFILL_TOKENS))
    prefill_s = _median(lambda: capture(model, ids), time.perf_counter, runs=3)
    return {
        "model": name,
        "tensors": len(tensors),
        "mb": round(size_bytes / 1e6, 1),
        "cores": available_cores(),
        "first_gb_s": round(size_bytes / first_s / 1e9, 2),
        "first_ms": round(1e3 * first_s, 1),
        "again_cpu_ms": round(1e3 * again_s, 2),
        "probe_ms": round(1e3 * probe_s, 1),
        "probe_again_cpu_ms": round(1e3 * known_s, 2),
        f"prefill_{_PREFILL_TOKENS}_ms": round(1e3 * prefill_s, 1),
    }


@torch.no_grad()
def _gate(model: Any) -> None:
    before, weight = fingerprint(model), next(model.parameters())
    weight[-1, -1] += 1
    assert fingerprint(model) != before, "a write went unnoticed"
    weight[-1, -1] -= 1


def _probe_anew(model: Any) -> None:
    from cachegen.engines.transformers import probe as hf_probe

    hf_probe._KNOWN.pop(model, None)
    support_of(model)


def _median(run: Callable[[], object], clock: Callable[[], float], *, runs: int = _RUNS) -> float:
    seconds = []
    for _ in range(runs):
        began = clock()
        run()
        seconds.append(clock() - began)
    return statistics.median(seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=weights_path(), help="folder of a model")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    return parser.parse_args()


if __name__ == "__main__":
    main()
