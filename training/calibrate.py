"""Make the profile that ships with the reference model, from shipped held-out novels and tasks.

.venv/bin/python training/calibrate.py [plain | paper]

The preset `paper` has a table for every channel: its profile of 2 MB is not shipped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from cachegen import refmodel

NOVELS = ("heldout-anstey", "heldout-craik")
FAMILIES = ("passkey", "records", "lines")
TASKS = 16
TASK_TOKENS = 1664


def task_text(family: str) -> str:
    """Documents with facts in them, each followed by questions and their answers."""
    tokenizer = AutoTokenizer.from_pretrained(refmodel.weights_path())
    documents = []
    for seed in range(TASKS):
        task = refmodel.generate(
            family,
            num_tokens=TASK_TOKENS,
            seed=1000 + seed,
            count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
            filler=refmodel.load_text(NOVELS[seed % len(NOVELS)]),
        )
        answers = [f"{question.prompt} {question.answer}." for question in task.questions]
        documents.append(task.context + "".join(answers))
    return "\n".join(documents)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts = {name: refmodel.load_text(name) for name in NOVELS}
        texts |= {f"tasks-{family}": task_text(family) for family in FAMILIES}
        options: list[str] = []
        for name, text in texts.items():
            path = Path(folder) / f"{name}.txt"
            path.write_text(text, encoding="utf-8")
            options += ["--text", str(path)]
        preset = sys.argv[1] if len(sys.argv) > 1 else "plain"
        output = refmodel.profile_path(preset)
        output.parent.mkdir(exist_ok=True)
        command = ["calibrate", "--model", str(refmodel.weights_path()), *options]
        command += ["-o", str(output), "--preset", preset, "--num-windows", "20"]
        subprocess.run([sys.executable, "-m", "cachegen.cli", *command], check=True)


if __name__ == "__main__":
    main()
