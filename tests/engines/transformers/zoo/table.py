"""The table of docs/architectures.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from tests.engines.transformers.zoo.outcome import RANKS, Outcome

COMMAND = ".venv/bin/python -m tests.engines.transformers.zoo.run --write"
_INTRODUCTION = """\
# Architectures

Every model type of `AutoModelForCausalLM` and some variants, each as a tiny random model in
float32 on a CPU. A context is saved and loaded losslessly as the beginning of a longer text, of a
shorter one that ends inside a chunk, with its last chunk lost, and prefilled in pieces; texts are
generated on top of it; the fingerprint must survive running, saving and opening the model.

| outcome | architectures | meaning |
|---|---:|---|
"""
_MEANINGS = {
    "exact": "continuing from what is loaded is bit-identical to continuing from the model's cache",
    "close": "the same but for rounding",
    "refused": "`save_context` and `load_context` say why, before anything is prefilled or stored",
    "not built": "there is no tiny model of it here",
    "wrong": "a defect",
}


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The whole document."""
    made_by = (
        f"transformers {transformers.__version__}, torch {torch.__version__}; `{COMMAND}` writes "
        "this file, `make test-zoo` checks it."
    )
    return "".join(
        [
            _INTRODUCTION,
            *(_counted(outcomes, kind) for kind in RANKS),
            f"\n{made_by}\n\n",
            "| architecture | layers | heads x dims | rotated | outcome | note |\n",
            "|---|---|---|---|---|---|\n",
            *map(_row, outcomes),
        ]
    )


def _counted(outcomes: Sequence[Outcome], kind: str) -> str:
    count = sum(outcome.outcome == kind for outcome in outcomes)
    return f"| {kind} | {count} | {_MEANINGS[kind]} |\n"


def _row(outcome: Outcome) -> str:
    note = outcome.note.replace("|", "\\|").replace("<", "\\<")
    cells = (outcome.layers, outcome.planes, outcome.rotation, outcome.outcome, note)
    return f"| `{outcome.name}` | {' | '.join(cells)} |\n"
