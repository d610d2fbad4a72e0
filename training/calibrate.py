"""Make a profile of the reference model from shipped texts and generated tasks.

    python training/calibrate.py [transform | plain | paper]

Learns from novels, technical English and tasks, and places the levels on other texts and tasks of
the same kinds. The texts that measurements are made on are not read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import refmodel
from cachegen.bitstream.rates import with_rates
from cachegen.cli.new_file import check_place, reads_as, write_checked
from cachegen.codec.calibration.calibrate import calibrate
from cachegen.codec.calibration.progress import Progress
from cachegen.codec.calibration.sample import Sample
from cachegen.codec.profile import Profile
from cachegen.engines import transformers as engine
from cachegen.engines.transformers.quality import Evaluator
from cachegen.refmodel.measure import retrieval_tasks, task_windows

PRESETS = ("transform", "plain", "paper")
CONTEXT_TOKENS = 1536
CONTINUATION_TOKENS = 128
NUM_SAMPLES = 80
NUM_WINDOWS = 12
LEARNT = ("train-doyle", "train-mason", "train-nesbit", "train-python")
PLACED = {"novels": ("heldout-anstey", "heldout-craik"), "technical": ("heldout-python",)}
FILLER_LEARNT, FILLER_PLACED = "train-mason", "heldout-craik"
# Keeping four fine takes a tenth more bytes, and continuations are no closer.
NUM_SINKS = 0
TASKS_LEARNT, TASKS_PLACED = 16, 10
QUESTIONS, QUESTIONS_READ = 20, 32
MOST_CODED = 4
SEED_LEARNT, SEED_PLACED, SEED_WINDOWS = 1000, 2000, 2500


class Materials:
    """The model, what its profile is learnt from, and what its levels are placed on."""

    def __init__(self) -> None:
        folder = refmodel.weights_path()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.twin = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.prefix = engine.first_tokens(self.tokenizer)

    def samples(self) -> Iterator[Sample]:
        tasks = self._tasks(TASKS_LEARNT, SEED_LEARNT, FILLER_LEARNT, questions=QUESTIONS_READ)
        texts = [engine.task_text(task, self.tokenizer) for task in tasks]
        return engine.samples(
            self.model,
            [*texts, *map(self._text, LEARNT)],
            num_tokens=CONTEXT_TOKENS,
            count=NUM_SAMPLES,
            continuation_tokens=CONTINUATION_TOKENS,
            prefix=self.prefix,
            twin=self.twin,
        )

    def evaluator(self, progress: Progress) -> Evaluator:
        windows = {domain: self._windows(names) for domain, names in PLACED.items()}
        read = self._tasks(NUM_WINDOWS, SEED_WINDOWS, FILLER_PLACED, questions=QUESTIONS_READ)
        windows["tasks"] = task_windows(
            self.tokenizer, read, continuation_tokens=CONTINUATION_TOKENS
        )
        asked = self._tasks(TASKS_PLACED, SEED_PLACED, FILLER_PLACED, questions=QUESTIONS)
        return engine.evaluator(
            self.model, windows, asked, tokenizer=self.tokenizer, progress=progress
        )

    def _text(self, name: str) -> list[int]:
        written = refmodel.load_text(name)
        ids: list[int] = self.tokenizer(written, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _windows(self, names: Iterable[str]) -> list[engine.Window]:
        return engine.cut_windows(
            [self._text(name) for name in names],
            num_tokens=CONTEXT_TOKENS,
            continuation_tokens=CONTINUATION_TOKENS,
            count=NUM_WINDOWS,
            prefix=self.prefix,
        )

    def _tasks(
        self, count: int, first_seed: int, filler: str, *, questions: int
    ) -> list[engine.Task]:
        return retrieval_tasks(
            self.tokenizer,
            count=count,
            first_seed=first_seed,
            filler=refmodel.load_text(filler),
            num_tokens=CONTEXT_TOKENS,
            num_questions=questions,
        )


def make(preset: str, progress: Progress) -> Profile:
    materials = Materials()
    samples = list(materials.samples())
    features = None
    if preset == "transform":
        features = engine.token_features(materials.model, prefix=materials.prefix)
    judge = materials.evaluator(progress)
    profile = calibrate(
        lambda: samples,
        evaluate=judge,
        fingerprint=engine.fingerprint(materials.model),
        rope=engine.rope_map(materials.model),
        preset=preset,
        token_features=features,
        num_sinks=NUM_SINKS,
        notes={
            "learnt_from": ", ".join((*LEARNT, "generated tasks")),
            "placed_on": ", ".join((*chain(*PLACED.values()), "generated tasks")),
            "samples": f"{NUM_SAMPLES} of {CONTEXT_TOKENS} tokens",
        },
        num_samples=NUM_SAMPLES,
        progress=progress,
    )
    contexts = judge.contexts(dtype=materials.model.dtype, most=MOST_CODED)
    return with_rates(profile, contexts, progress=progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="transform", choices=PRESETS)
    preset = parser.parse_args().preset
    output = refmodel.profile_path(preset)
    output.parent.mkdir(exist_ok=True)
    output = check_place(output)
    start = time.monotonic()
    profile = make(preset, lambda status: print(f"{time.monotonic() - start:7.1f} s  {status}"))
    write_checked(output, profile.file_bytes, check=reads_as(profile, output))
    print(f"{output}: {len(profile.file_bytes):,} bytes, default level {profile.default_level}")


if __name__ == "__main__":
    main()
