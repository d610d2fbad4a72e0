"""The reading process of `demo`: it gets tokens and a store, and answers from loaded caches.

Run as ``python -m cachegen.cli.demo.reader JOB.json``; prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from cachegen.cli.demo.writer import WriterJob
from cachegen.cli.models import load_model
from cachegen.codec.profile import read_profile
from cachegen.engines.transformers import LoadedContext, capture, load_context, to_cache
from cachegen.kvcache import KVCache
from cachegen.refmodel import exact_match
from cachegen.store import open_store

# Arbitrary: 3 to 15 do, an odd number for the median.
REPEATS = 7
# Enough to see that an answer ends where the right one does. Arbitrary: 1 to 8 do.
_EXTRA_TOKENS = 2


class DemoReader:
    """The model, the store and the questions of the reading process."""

    def __init__(self, job: WriterJob) -> None:
        """Load the model; open the store."""
        self.job = job
        self.model, self.tokenizer = load_model(Path(job.model))
        self.profile = read_profile(Path(job.profile))
        self.store = open_store(job.store)
        self.prompts = [
            self.tokenizer(prompt, add_special_tokens=False).input_ids for prompt in job.prompts
        ]

    def load(self, level: str) -> LoadedContext:
        """The document's cache at a level, from the store."""
        return load_context(
            self.model, self.job.tokens, store=self.store, profile=self.profile, level=level
        )

    @torch.inference_mode()
    def prefill(self) -> None:
        """What loading saves: one forward pass over the document."""
        self.model(input_ids=torch.tensor([self.job.tokens]), use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def log_probabilities(self, kv: KVCache) -> torch.Tensor:
        """Log-probabilities (tokens, vocabulary) along the continuation."""
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([self.job.continuation]), past_key_values=self._cache(kv)
        ).logits[0]
        return logits.double().log_softmax(-1)

    @torch.inference_mode()
    def answer(self, kv: KVCache, prompt: list[int], num_tokens: int) -> str:
        """The greedy continuation of the document and a prompt."""
        cache, new, ids = self._cache(kv), list[int](), prompt
        for _ in range(num_tokens):
            logits = self.model(input_ids=torch.tensor([ids]), past_key_values=cache).logits
            ids = [int(logits[0, -1].argmax())]
            new += ids
        text: str = self.tokenizer.decode(new, skip_special_tokens=True)
        return text

    def answers(self, kv: KVCache) -> list[str]:
        """One answer for each question, a little longer than the right one."""
        return [
            self.answer(kv, prompt, len(self._ids(answer)) + _EXTRA_TOKENS)
            for prompt, answer in zip(self.prompts, self.job.answers, strict=True)
        ]

    def share_correct(self, answers: list[str]) -> float:
        """How many answers match the document, as a share."""
        pairs = zip(answers, self.job.answers, strict=True)
        return sum(exact_match(given, right) for given, right in pairs) / len(answers)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _cache(self, kv: KVCache) -> Any:
        return to_cache(kv, self.model)


class Judge:
    """The model's answers and predictions from the cache that it computed itself."""

    def __init__(self, reader: DemoReader) -> None:
        """Prefill the document once more and ask every question."""
        original = capture(reader.model, reader.job.tokens)
        self.reader, self.fp16_bytes = reader, 2 * original.num_values
        self.answers = reader.answers(original)
        self.reference = reader.log_probabilities(original)

    @property
    def share_correct(self) -> float:
        """How many of its answers are right."""
        return self.reader.share_correct(self.answers)

    def compare(self, kv: KVCache) -> dict[str, float]:
        """How far answers and predictions from another cache are from that."""
        given, found = self.reader.answers(kv), self.reader.log_probabilities(kv)
        equal = sum(a == b for a, b in zip(given, self.answers, strict=True))
        return {
            "kl": float((self.reference.exp() * (self.reference - found)).sum(-1).mean()),
            "answers_correct": self.reader.share_correct(given),
            "answers_equal": equal / len(given),
        }


def run(job: WriterJob) -> dict[str, Any]:
    """Time prefill and loading, alternately, then compare answers and predictions."""
    reader = DemoReader(job)
    prefill_s, load_s = _time(reader)
    judge, levels = Judge(reader), {}
    for level in job.levels:
        kv = reader.load(level).result.kv
        assert kv is not None
        levels[level] = {"load_s": load_s[level], **judge.compare(kv)}
    return {
        "prefill_s": prefill_s,
        "fp16_bytes": judge.fp16_bytes,
        "answers_correct": judge.share_correct,
        "default_level": reader.profile.default_level,
        "levels": levels,
    }


def _time(reader: DemoReader) -> tuple[float, dict[str, float]]:
    """Medians of prefill and of loading every level, interleaved after a warm-up."""
    prefills: list[float] = []
    loads: dict[str, list[float]] = {level: [] for level in reader.job.levels}
    for _ in range(REPEATS + 1):
        prefills.append(_elapsed(reader.prefill))
        for level, times in loads.items():
            times.append(_elapsed(lambda level=level: reader.load(level)))
    medians = {level: statistics.median(times[1:]) for level, times in loads.items()}
    return statistics.median(prefills[1:]), medians


def _elapsed(action: Any) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(run(WriterJob(**json.loads(Path(sys.argv[1]).read_text())))))
