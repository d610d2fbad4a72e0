"""Make a profile: statistics from sample caches, levels placed by measured quality.

Knows no engine: samples are caches, and `evaluate` tells how good a lossy round trip is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
        ValueError: an unknown preset, no samples, or targets that do not match the ladder.
    """
    if preset not in ("plain", "paper"):
        raise ValueError(f"expected preset plain or paper, got {preset!r}")
    if len(target_kl) != len(LADDER):
        raise ValueError(f"expected {len(LADDER)} targets, got {len(target_kl)}")
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
        model = CodingModel(
            paper.bins(geometry, step), np.zeros(0, np.int64), tables, None, rope
        )
        return lambda kv: paper.roundtrip(kv, model)

    return at


def _place(
    roundtrip: Callable[[float], RoundTrip],
    evaluate: Evaluate,
    codec: str,
    target_kl: tuple[float, ...],
    progress: Callable[[str], None],
) -> tuple[EncodingLevel, ...]:
    levels, step = [], _FIRST_STEP
    for name, target in zip(LADDER, target_kl, strict=True):
        placed = _search(lambda s: evaluate(roundtrip(s)), target, step)
        step = placed.step
        levels.append(EncodingLevel(name, codec, placed.step, placed.quality))
        progress(f"level {name}: step {placed.step:.4f}, KL {placed.quality.kl:.5f}")
    return tuple(levels)


def _search(measure: Callable[[float], Quality], target: float, step: float) -> _Placed:
    """The largest step found whose KL stays within the target, and preferably close to it.

    KL grows about with the square of the step; between two trials that bracket the target the
    next is taken half-way, in logarithms.
    """
    good: _Placed | None = None
    too_large = float("inf")
    trials = 0
    while good is None or (good.quality.kl < _CLOSE * target and trials < _TRIALS):
        quality = measure(step)
        trials += 1
        if quality.kl <= target:
            good = max(filter(None, (good, _Placed(step, quality))), key=lambda p: p.step)
        else:
            too_large = min(too_large, step)
        guess = step * (0.95 * target / max(quality.kl, 1e-9)) ** 0.5
        guess = min(max(guess, step / 8), step * 8)
        low = good.step if good else 0.0
        inside = low < guess < too_large
        step = guess if inside else ((low * too_large) ** 0.5 if low else too_large / 2)
    return good


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
    models = [
        paper.fit(samples(), geometry, level.step, margin=_TABLE_MARGIN) for level in levels
    ]
    first = np.cumsum([0] + [len(model.frequencies) for model in models])
    frequencies = np.concatenate([model.frequencies for model in models])
    return frequencies, tuple(
        model.table_ids + offset for model, offset in zip(models, first, strict=False)
    )


