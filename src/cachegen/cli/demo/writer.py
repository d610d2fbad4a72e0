"""The demo's documents: a novel with facts in it, prefilled and stored at every level."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen import refmodel
from cachegen.bitstream.chunk import encode
from cachegen.cli.models import load_network, load_tokenizer
from cachegen.codec.levels import FIXED_LEVELS
from cachegen.codec.profile import Profile, read_profile
from cachegen.contexts.save import save
from cachegen.engines.transformers import capture, fingerprint
from cachegen.kvcache import KVCache
from cachegen.store import open_store

# As levels are measured in calibration.
CONTINUATION_TOKENS = 128
# Arbitrary: 3 to 9 do, an odd number for the median.
_ENCODE_REPEATS = 3


@dataclass(frozen=True, slots=True)
class WriterJob:
    """The job of the reading process; it contains no caches.

    Attributes:
        model: folder of the model.
        profile: file of the profile.
        store: folder of the store.
        tokens: the document.
        continuation: the tokens that follow it in the text, to measure KL on.
        prompts: one for each question, to append to the document.
        answers: what the document says.
        levels: names to load.
        chunk_tokens: tokens of a chunk.
    """

    model: str
    profile: str
    store: str
    tokens: list[int]
    continuation: list[int]
    prompts: list[str]
    answers: list[str]
    levels: list[str]
    chunk_tokens: int


def make_job(
    model: Path | None,
    profile: Path | None,
    *,
    data: Path | None,
    folder: Path,
    num_tokens: int,
    num_questions: int,
    chunk_tokens: int,
    seed: int,
) -> WriterJob:
    """A document of at most so many tokens, and questions about it; nothing is stored yet."""
    model = model or refmodel.weights_path()
    profile = profile or refmodel.profile_path()
    tokenizer = load_tokenizer(model)
    filler = refmodel.read_texts(data) if data else refmodel.load_text("heldout-chesterton")
    document = refmodel.generate(
        "passkey",
        num_tokens=num_tokens,
        seed=seed,
        count_tokens=lambda piece: len(tokenizer(piece, add_special_tokens=False).input_ids),
        filler=filler,
        num_questions=num_questions,
    )
    rest = tokenizer(filler[-4000:], add_special_tokens=False).input_ids[:CONTINUATION_TOKENS]
    return WriterJob(
        model=str(model),
        profile=str(profile),
        store=str(folder),
        tokens=tokenizer(document.context).input_ids,
        continuation=rest,
        prompts=[question.prompt for question in document.questions],
        answers=[question.answer for question in document.questions],
        levels=[level.name for level in read_profile(profile).levels + FIXED_LEVELS],
        chunk_tokens=chunk_tokens,
    )


def store_levels(job: WriterJob) -> dict[str, dict[str, Any]]:
    """Prefill and save; sizes and encoding times by level."""
    network = load_network(Path(job.model))
    profile = read_profile(Path(job.profile))
    kv = capture(network, job.tokens)
    manifest = save(
        kv,
        tokens=job.tokens,
        store=open_store(job.store),
        profile=profile,
        levels=job.levels,
        chunk_tokens=job.chunk_tokens,
        fingerprint=fingerprint(network),
    )
    written = {
        name: {"bytes": 0, "encode_s": _encode_s(kv, job, profile, name)} for name in job.levels
    }
    for chunk in manifest.chunks:
        for stored in chunk.objects:
            written[stored.level]["bytes"] += stored.size_bytes
    return written


def _encode_s(kv: KVCache, job: WriterJob, profile: Profile, level: str) -> float:
    times = []
    for _ in range(_ENCODE_REPEATS):
        began = time.perf_counter()
        for first in range(0, kv.num_tokens, job.chunk_tokens):
            stop = min(first + job.chunk_tokens, kv.num_tokens)
            part = kv.slice(first, stop)
            encode(part, tokens=job.tokens[first:stop], profile=profile, level=level)
        times.append(time.perf_counter() - began)
    return statistics.median(times)
