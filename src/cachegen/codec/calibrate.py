"""Make a profile: statistics from sample caches, levels placed by measured quality.

Knows no engine: samples are caches, and `evaluate` tells how good a lossy round trip is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cachegen.codec import paper, plain
from cachegen.codec.levels import LADDER, EncodingLevel, Quality
from cachegen.codec.model import CodingModel
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.statistics import PlaneStatistics
from cachegen.codec.tables import MAX_TABLES, cluster, table_frequencies
from cachegen.kvcache import Geometry, KVCache

Samples = Callable[[], Iterable[KVCache]]
RoundTrip = Callable[[KVCache], KVCache]
Evaluate = Callable[[RoundTrip], Quality]

PROMISED_KL = 0.003
TARGET_KL = (0.1, 0.03, 0.01, 0.0027, 0.0007)
_CLOSE = 0.85
_TRIALS = 10
_FIRST_STEP = 0.3
_FINEST_STEP = 1e-4
_TABLE_MARGIN = 3


@dataclass(frozen=True, slots=True)
class _Placed:
    step: float
    quality: Quality


def calibrate(
    samples: Samples,
    *,
    evaluate: Evaluate,
    fingerprint: bytes,
    rope: RopeMap,
    preset: str = "plain",
    target_kl: tuple[float, ...] = TARGET_KL,
    notes: dict[str, str] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Profile:
    """Measure a model's caches and place its levels.

    Args:
        samples: gives the caches to learn from; called once for each pass over them.
        evaluate: measures the quality of continuations after a round trip of held-out caches.
        fingerprint: SHA-256 that identifies the model.
        rope: rotations to take off keys.
        preset: `plain` or `paper`.
        target_kl: nats per token that each level may cost, worst first; one for each of
            lowest, low, medium, high, highest.
        notes: kept in the profile, for people.
        progress: told what happens, in words.

    Raises:
        ValueError: an unknown preset, no samples, samples with NaN or infinities, rotations that
            do not fit them, or targets that do not match the ladder.
    """
    if preset not in ("plain", "paper"):
        raise ValueError(f"expected preset plain or paper, got {preset!r}")
    if len(fingerprint) != 32:
        raise ValueError(f"expected a fingerprint of 32 bytes, got {len(fingerprint)}")
    falling = all(worse > better for worse, better in pairwise((*target_kl, 0.0)))
    if len(target_kl) != len(LADDER) or not falling:
        raise ValueError(f"expected {len(LADDER)} falling targets above 0, got {target_kl}")
    progress("statistics")
    found = plain.statistics(samples(), rope)
    if preset == "paper":
        scales, roundtrip = paper.bins(found.geometry, 1.0), _paper_roundtrip(found.geometry)
    else:
        scales, roundtrip = found.rms, _plain_roundtrip(found, rope)
    levels = _place(roundtrip, evaluate, preset, target_kl, progress)
    progress("tables")
    frequencies, table_ids = _tables(samples, found, rope, levels)
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
    """The smallest level whose measured KL keeps the promise; the best if none does."""
    for level in levels:
        if level.quality is not None and level.quality.kl <= PROMISED_KL:
            return level.name
    return levels[-1].name


def _plain_roundtrip(found: PlaneStatistics, rope: RopeMap) -> Callable[[float], RoundTrip]:
    return lambda step: lambda kv: plain.roundtrip(kv, plain.blank_model(found, rope, step))


def _paper_roundtrip(geometry: Geometry) -> Callable[[float], RoundTrip]:
    def at(step: float) -> RoundTrip:
        rope = RopeMap.none(len(geometry.planes))
        tables = np.zeros((0, 256), np.uint16)
        model = CodingModel(paper.bins(geometry, step), np.zeros(0, np.int64), tables, None, rope)
        return lambda kv: paper.roundtrip(kv, model)

    return at


def _place(
    roundtrip: Callable[[float], RoundTrip],
    evaluate: Evaluate,
    codec: str,
    target_kl: tuple[float, ...],
    progress: Callable[[str], None],
) -> tuple[EncodingLevel, ...]:
    levels: list[EncodingLevel] = []
    placed: _Placed | None = None
    for name, target in zip(LADDER, target_kl, strict=True):
        placed = _search(lambda step: _trial(roundtrip, evaluate, step), target, placed)
        levels.append(EncodingLevel(name, codec, placed.step, placed.quality))
        progress(f"level {name}: step {placed.step:.4f}, KL {placed.quality.kl:.5f}")
    return tuple(levels)


def _trial(roundtrip: Callable[[float], RoundTrip], evaluate: Evaluate, step: float) -> _Placed:
    quality = evaluate(roundtrip(step))
    if not math.isfinite(quality.kl):
        raise ValueError(f"expected a finite KL from `evaluate`, got {quality.kl} at step {step}")
    return _Placed(step, quality)


def _search(trial: Callable[[float], _Placed], target: float, coarser: _Placed | None) -> _Placed:
    """The largest step found whose KL stays within the target, and preferably close to it.

    KL grows about with the square of the step; where that guess leaves the bracket the next trial
    is half-way, in logarithms. Where nothing reaches the target the best that was found stands.
    """
    if coarser is not None and coarser.quality.kl <= target:
        return coarser
    good, low, high = None, 0.0, float("inf")
    step, best = _FIRST_STEP, coarser
    if coarser is not None:
        step, high = _next_step(coarser, target, low, coarser.step), coarser.step
    for _ in range(_TRIALS):
        found = trial(step)
        if found.quality.kl <= target:
            good, low = found, step
            if found.quality.kl >= _CLOSE * target:
                break
        else:
            high = step
            best = found if best is None or found.quality.kl < best.quality.kl else best
        step = _next_step(found, target, low, high)
        if step < _FINEST_STEP:
            break
    result = good or best
    assert result is not None
    return result


def _next_step(found: _Placed, target: float, low: float, high: float) -> float:
    guess = found.step * math.sqrt(0.95 * target / max(found.quality.kl, 1e-9))
    guess = min(max(guess, found.step / 8), found.step * 8)
    if low < guess < high:
        return guess
    return math.sqrt(low * high) if low else high / 2


def _tables(
    samples: Samples, found: PlaneStatistics, rope: RopeMap, levels: tuple[EncodingLevel, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    if levels[0].codec == "paper":
        return _paper_tables(samples, found.geometry, levels)
    models = [plain.blank_model(found, rope, level.step) for level in levels]
    counts = np.zeros((len(levels), found.geometry.values_per_token, 256), dtype=np.int64)
    for kv in samples():
        for index, model in enumerate(models):
            counts[index] += plain.symbol_counts(kv, model)
    sums, ids = cluster(counts.reshape(-1, 256), max_tables=MAX_TABLES)
    frequencies = table_frequencies(sums, margin=_TABLE_MARGIN, escape=True)
    return frequencies, tuple(ids.reshape(len(levels), -1))


def _paper_tables(
    samples: Samples, geometry: Geometry, levels: tuple[EncodingLevel, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    models = [paper.fit(samples(), geometry, level.step, margin=_TABLE_MARGIN) for level in levels]
    first = np.cumsum([0] + [len(model.frequencies) for model in models])
    frequencies = np.concatenate([model.frequencies for model in models])
    return frequencies, tuple(
        model.table_ids + offset for model, offset in zip(models, first, strict=False)
    )
