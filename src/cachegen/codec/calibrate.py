"""Make a profile: statistics from sample caches, levels placed by measured quality.

Knows no engine: samples are caches, and `evaluate` tells how good a lossy round trip is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from cachegen.codec import paper, plain
from cachegen.codec.levels import (
    LADDER,
    PROMISED_ANSWERS,
    PROMISED_KL,
    PROMISED_REL_PPL,
    EncodingLevel,
    Quality,
    worst,
)
from cachegen.codec.model import CodingModel
from cachegen.codec.placement import Placed, search
from cachegen.codec.profile import CODECS, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.rows import SINKS
from cachegen.codec.sample import Samples
from cachegen.codec.statistics import PlaneStatistics
from cachegen.codec.stored_transform import MOST_SINKS
from cachegen.codec.tables import MARGIN, MAX_TABLES, cluster, table_frequencies
from cachegen.codec.train import TransformTraining
from cachegen.kvcache import Geometry, KVCache

RoundTrip = Callable[[KVCache, Sequence[int]], KVCache]
Evaluate = Callable[[RoundTrip], Mapping[str, Quality]]
Progress = Callable[[str], None]

_ABLE = 0.9
TARGET_KL = (0.1, 0.03, 0.01, 0.0023, 0.0005)


def calibrate(
    samples: Samples,
    *,
    evaluate: Evaluate,
    fingerprint: bytes,
    rope: RopeMap,
    preset: str = "transform",
    token_features: np.ndarray | None = None,
    max_profile_mb: float = 64.0,
    num_sinks: int = SINKS,
    target_kl: tuple[float, ...] = TARGET_KL,
    notes: dict[str, str] | None = None,
    progress: Progress = lambda message: None,
) -> Profile:
    """Measure a model's caches and place its levels.

    Args:
        samples: gives the contexts to learn from; called once for each pass over them.
        evaluate: measures the quality of continuations after a round trip of held-out caches,
            by domain.
        fingerprint: SHA-256 that identifies the model.
        rope: rotations to take off keys.
        preset: `transform`, `plain` or `paper`.
        token_features: float32 (vocabulary, features): what is known of a token by itself, for
            `transform` to predict from; without it nothing is predicted.
        max_profile_mb: `transform` keeps only so much of what it learns.
        num_sinks: first tokens of a context that `transform` keeps at eight bits; 0 for a model
            whose first tokens are like any others.
        target_kl: nats per token that each level may cost in its worst domain, worst first; one
            for each of lowest, low, medium, high, highest.
        notes: kept in the profile, for people.
        progress: told what happens, in words.

    Raises:
        ValueError: an unknown preset, no samples, samples with NaN or infinities, rotations that
            do not fit them, or targets that do not match the ladder.
    """
    if preset not in CODECS:
        raise ValueError(f"expected a preset of {', '.join(CODECS)}; got {preset!r}")
    if not 0 <= num_sinks <= MOST_SINKS:
        raise ValueError(f"expected 0 to {MOST_SINKS} sinks, got {num_sinks}")
    if len(fingerprint) != 32:
        raise ValueError(f"expected a fingerprint of 32 bytes, got {len(fingerprint)}")
    falling = all(more > less for more, less in pairwise((*target_kl, 0.0)))
    if len(target_kl) != len(LADDER) or not falling:
        raise ValueError(f"expected {len(LADDER)} falling targets above 0, got {target_kl}")
    if preset == "transform":
        blank = TransformTraining.learn(
            samples,
            rope=rope,
            fingerprint=fingerprint,
            token_features=token_features,
            max_profile_mb=max_profile_mb,
            num_sinks=num_sinks,
            progress=progress,
        )
        levels = _place(blank.roundtrip, evaluate, preset, target_kl, progress)
        profile = blank.finish(samples, levels, default_level=default_level(levels))
        return replace(profile, notes=notes or {})
    progress("statistics")
    caches = _caches(samples)
    found = plain.statistics(caches(), rope)
    if preset == "paper":
        scales, roundtrip = paper.bins(found.geometry, 1.0), _paper_roundtrip(found.geometry)
    else:
        scales, roundtrip = found.rms, _plain_roundtrip(found, rope)
    levels = _place(roundtrip, evaluate, preset, target_kl, progress)
    progress("tables")
    frequencies, table_ids = tables_of(caches, found, rope, levels)
    return Profile(
        codec=preset,
        fingerprint=fingerprint,
        geometry=found.geometry,
        levels=levels,
        default_level=default_level(levels),
        rope=RopeMap.none(len(rope.of_plane)) if preset == "paper" else rope,
        scales=scales,
        means=None if preset == "paper" else found.means,
        frequencies=frequencies,
        table_ids=table_ids,
        notes=notes or {},
    )


def default_level(levels: tuple[EncodingLevel, ...]) -> str:
    """The smallest level that keeps the promise in every domain; the best if none does."""
    for level in levels:
        measured = [*level.domains.values(), *([level.quality] if level.quality else [])]
        if measured and all(map(_keeps_promise, measured)):
            return level.name
    return levels[-1].name


def _keeps_promise(quality: Quality) -> bool:
    right, original = quality.exact_match, quality.exact_match_uncompressed
    forgets = False
    if right is not None and original is not None and original >= _ABLE:
        forgets = right < original - PROMISED_ANSWERS
    within = quality.kl <= PROMISED_KL and quality.rel_ppl <= PROMISED_REL_PPL
    return within and not forgets


def _caches(samples: Samples) -> Callable[[], Iterable[KVCache]]:
    return lambda: (sample.kv for sample in samples())


def _plain_roundtrip(found: PlaneStatistics, rope: RopeMap) -> Callable[[float], RoundTrip]:
    return lambda step: lambda kv, _: plain.roundtrip(kv, plain.blank_model(found, rope, step))


def _paper_roundtrip(geometry: Geometry) -> Callable[[float], RoundTrip]:
    def at(step: float) -> RoundTrip:
        rope = RopeMap.none(len(geometry.planes))
        tables = np.zeros((0, 256), np.uint16)
        model = CodingModel(paper.bins(geometry, step), np.zeros(0, np.int64), tables, None, rope)
        return lambda kv, _: paper.roundtrip(kv, model)

    return at


def _place(
    roundtrip: Callable[[float], RoundTrip],
    evaluate: Evaluate,
    codec: str,
    target_kl: tuple[float, ...],
    progress: Progress,
) -> tuple[EncodingLevel, ...]:
    def trial(step: float) -> Placed:
        domains = dict(evaluate(roundtrip(step)))
        return Placed(step, worst(domains), domains)

    levels: list[EncodingLevel] = []
    placed: Placed | None = None
    for name, target in zip(LADDER, target_kl, strict=True):
        placed = search(trial, target, placed)
        levels.append(EncodingLevel(name, codec, placed.step, placed.quality, placed.domains))
        progress(f"level {name}: step {placed.step:.4f}, KL {placed.quality.kl:.5f}")
    return tuple(levels)


def tables_of(
    caches: Callable[[], Iterable[KVCache]],
    found: PlaneStatistics,
    rope: RopeMap,
    levels: tuple[EncodingLevel, ...],
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Tables of levels of `plain` or `paper`, and per level the table of every coefficient."""
    if levels[0].codec == "paper":
        return _paper_tables(caches, found.geometry, levels)
    models = [plain.blank_model(found, rope, level.step) for level in levels]
    counts = np.zeros((len(levels), found.geometry.values_per_token, 256), dtype=np.int64)
    for kv in caches():
        for index, model in enumerate(models):
            counts[index] += plain.symbol_counts(kv, model)
    sums, ids = cluster(counts.reshape(-1, 256), max_tables=MAX_TABLES)
    frequencies = table_frequencies(sums, margin=MARGIN, escape=True)
    return frequencies, tuple(ids.reshape(len(levels), -1))


def _paper_tables(
    caches: Callable[[], Iterable[KVCache]],
    geometry: Geometry,
    levels: tuple[EncodingLevel, ...],
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    models = [paper.fit(caches(), geometry, level.step, margin=MARGIN) for level in levels]
    first = np.cumsum([0] + [len(model.frequencies) for model in models])
    frequencies = np.concatenate([model.frequencies for model in models])
    return frequencies, tuple(
        model.table_ids + offset for model, offset in zip(models, first, strict=False)
    )
