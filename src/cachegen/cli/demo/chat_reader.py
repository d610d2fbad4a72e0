"""The reading process of `demo --model`: answers from loaded caches, compared with its own.

Run as ``python -m cachegen.cli.demo.chat_reader JOB.json``; prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cachegen.cli.demo.chat_writer import ChatJob
from cachegen.cli.models import load_model
from cachegen.codec.profile import read_profile
from cachegen.engines.transformers import capture, load_context, to_cache
from cachegen.kvcache import KVCache
from cachegen.store import open_store

# Arbitrary: 3 to 9 do, an odd number for the median.
REPEATS = 3


class ChatReader:
    """The model, the store and the questions of the reading process."""

    def __init__(self, job: ChatJob) -> None:
        """Load the model; open the store."""
        self.job = job
        self.model, self.tokenizer = load_model(Path(job.model))
        self.profile = read_profile(Path(job.profile)) if job.profile else None
        self.store = open_store(job.store)

    def load(self, level: str) -> KVCache:
        """The document's cache at a level, from the store."""
        kv = load_context(
            self.model, self.job.tokens, store=self.store, profile=self.profile, level=level
        ).result.kv
        assert kv is not None
        return kv

    def answers(self, kv: KVCache) -> list[list[int]]:
        """For each question the greedy answer's tokens; the cache serves all of them."""
        return [self._answer(kv, end) for end in self.job.ends]

    def texts(self, answers: list[list[int]]) -> list[str]:
        """What people read."""
        decode = self.tokenizer.decode
        return [str(decode(ids, skip_special_tokens=True)).strip() for ids in answers]

    @torch.inference_mode()
    def log_probabilities(self, kv: KVCache, answers: list[list[int]]) -> torch.Tensor:
        """Log-probabilities (tokens of all answers, vocabulary) along given answers."""
        found = []
        for end, answer in zip(self.job.ends, answers, strict=True):
            ids = torch.tensor([[*end, *answer[:-1]]], device=self.model.device)
            cache = to_cache(kv, self.model)
            logits = self.model(
                input_ids=ids, past_key_values=cache, logits_to_keep=len(answer)
            ).logits
            found.append(logits[0, -len(answer) :].float().log_softmax(-1))
        return torch.cat(found)

    def _answer(self, kv: KVCache, end: list[int]) -> list[int]:
        ids = torch.tensor([[*self.job.tokens, *end]], device=self.model.device)
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=to_cache(kv, self.model),
            max_new_tokens=self.job.answer_tokens,
            do_sample=False,
        )
        new: list[int] = output[0, ids.shape[1] :].tolist()
        return new


def run(job: ChatJob) -> dict[str, Any]:
    """Time loading and prefill, then compare answers and predictions."""
    reader = ChatReader(job)
    reader.load(job.default_level)
    prefill_s, original = _timed(lambda: capture(reader.model, job.tokens))
    answers = reader.answers(original)
    reference = reader.log_probabilities(original, answers)
    levels, loaded = {}, list[str]()
    for level in job.levels:
        runs = [_timed(partial(reader.load, level)) for _ in range(REPEATS)]
        kv = runs[-1][1]
        found = reader.log_probabilities(kv, answers)
        levels[level] = {
            "load_s": statistics.median(took_s for took_s, _ in runs),
            "kl": float((reference.exp() * (reference - found)).sum(-1).mean()),
            "top1": float((reference.argmax(-1) == found.argmax(-1)).double().mean()),
        }
        if level == job.default_level:
            loaded = reader.texts(reader.answers(kv))
    return {
        "prefill_s": prefill_s,
        "fp16_bytes": 2 * original.num_values,
        "answers": reader.texts(answers),
        "loaded_answers": loaded,
        "levels": levels,
    }


def _timed(action: Callable[[], KVCache]) -> tuple[float, KVCache]:
    began = time.perf_counter()
    found = action()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    print(json.dumps(run(ChatJob(**json.loads(Path(sys.argv[1]).read_text())))))
