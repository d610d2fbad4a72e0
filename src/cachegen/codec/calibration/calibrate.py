"""Make a profile: statistics from sample caches, levels placed by measured quality.

Knows no engine: samples are caches, and `evaluate` tells how good a lossy round trip is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from cachegen.codec import paper, plain
from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.codec.calibration.long_contexts import PHASE as LENGTHS
from cachegen.codec.calibration.long_contexts import LongTexts, held
from cachegen.codec.calibration.placement import PHASE as LEVELS
from cachegen.codec.calibration.placement import Ladder, place
from cachegen.codec.calibration.progress import Progress, Status, silent
from cachegen.codec.calibration.sample import (
    START,
    Evaluate,
    Passes,
    Position,
    RoundTrip,
    Samples,
)
from cachegen.codec.calibration.stored_moments import (
    geometry_from_json,
    geometry_to_json,
    position_from_json,
    position_to_json,
)
from cachegen.codec.calibration.train import (
    FEATURES,
    MOMENTS,
    SOLVING,
    TABLES,
    TokenFeatures,
    TransformTraining,
)
from cachegen.codec.calibration.trials import measuring
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.levels import (
    ADAPTIVE,
    LADDER,
    LOSSLESS,
    PACKED,
    PROMISED_ANSWERS,
    PROMISED_KL,
    PROMISED_REL_PPL,
    EncodingLevel,
    Quality,
    worst,
)
from cachegen.codec.matrix import SINKS
from cachegen.codec.model import CodingModel
from cachegen.codec.profile import CODECS_WITH_PROFILE, Profile, step_limits
from cachegen.codec.rope import RopeMap
from cachegen.codec.statistics import PlaneStatistics
from cachegen.codec.tables import MARGIN, MAX_TABLES, cluster, table_frequencies
from cachegen.codec.transform.stored_transform import MOST_SINKS
from cachegen.kvcache import Geometry

# Share of answers that are right without coding, below which those lost are not counted against the
# promise. Arbitrary: 0.8 to 0.95 do; a model that guesses changes its answers by chance.
_ABLE = 0.9
_OUT_OF_REACH = "out_of_reach"
STATISTICS = "statistics"
# The fourth is the default level: it keeps the promise of 0.003 with a margin for other texts. The
# others are arbitrary, each three to five times the next.
TARGET_KL = (0.1, 0.03, 0.01, 0.0025, 0.0005)
PHASES = {
    "transform": (FEATURES, MOMENTS, SOLVING, LEVELS, LENGTHS, TABLES),
    "plain": (STATISTICS, LEVELS, LENGTHS, TABLES),
    "paper": (STATISTICS, LEVELS, LENGTHS, TABLES),
}


def calibrate(
    samples: Samples,
    *,
    evaluate: Evaluate,
    fingerprint: bytes,
    rope: RopeMap,
    preset: str = "transform",
    token_features: TokenFeatures = None,
    max_profile_mb: float = 64.0,
    num_sinks: int = SINKS,
    windows: Sequence[int] = (),
    target_kl: tuple[float, ...] = TARGET_KL,
    noise_floor: float = 0.0,
    long: LongTexts | None = None,
    notes: dict[str, str] | None = None,
    num_samples: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> Profile:
    """Measure a model's caches and place its levels.

    Args:
        samples: gives the contexts to learn from; called once for each pass over them, with a
            position only where a checkpoint has kept what was made of those before it.
        evaluate: measures the quality of continuations after a round trip of held-out caches,
            by domain.
        fingerprint: SHA-256 that identifies the model.
        rope: rotations to take off keys.
        preset: `transform`, `plain` or `paper`.
        token_features: float32 (vocabulary, features): what is known of a token by itself, for
            `transform` to predict from, or a function that computes it where it is needed;
            without it nothing is predicted.
        max_profile_mb: size limit of a `transform` profile. The default is arbitrary: the size that
            a model needs depends on its cache (docs/decisions/2026-11-29-token-weights.md).
        num_sinks: first tokens of a context that `transform` keeps at eight bits; 0 for a model
            whose first tokens are like any others.
        windows: of every layer, the tokens that a token attends to, 0 for all before it;
            `transform` codes layers of different windows apart, so that loads fetch what they need.
        target_kl: nats per token that each level may cost in its worst domain, worst first; one
            for each of lowest, low, medium, high, highest.
        noise_floor: KL in nats per token by which the model differs from itself after changes
            below the rounding of its dtype; targets are no lower than a tenth above it.
        long: contexts longer than the samples, on which the default level keeps its promise too;
            None measures none.
        notes: kept in the profile, for people; joined by targets that were out of reach.
        num_samples: how many samples there are, for progress to say; None where nobody knows.
        checkpoint: keeps what is done, and gives it back to a run that was cut off: its inputs
            must name all that decides the samples, the evaluation and these arguments.
        progress: told how far it is.

    Raises:
        ValueError: an unknown preset, no samples, samples with NaN or infinities, rotations that
            do not fit them, targets that do not match the ladder, or no finite KL at any step.
    """
    _check_arguments(preset, num_sinks, fingerprint, target_kl)
    passes = Passes(samples, num_samples, checkpoint or Checkpoint(None), progress)
    ladder = partial(
        place,
        target_kl=target_kl,
        codec=preset,
        checkpoint=passes.checkpoint,
        progress=progress,
        noise_floor=noise_floor,
    )
    at_length = partial(
        held, texts=long, evaluate=evaluate, checkpoint=passes.checkpoint, progress=progress
    )
    if preset == "transform":
        blank = TransformTraining.learn(
            passes,
            rope=rope,
            fingerprint=fingerprint,
            token_features=token_features,
            max_profile_mb=max_profile_mb,
            num_sinks=num_sinks,
            windows=windows,
        )
        placed = ladder(measuring(blank.roundtrip, evaluate), limits=blank.step_limits())
        default, warning = _chosen_default(placed.levels, rope, evaluate, progress)
        placed = at_length(placed, default, roundtrip=blank.roundtrip)
        progress(Status(TABLES))
        highest = blank.highest_ood_score(placed.levels, evaluate)
        profile = blank.finish(placed.levels, default_level=default, highest=highest)
        notes = _notes(notes, placed, warning)
        return replace(profile, noise_floor=noise_floor, notes=notes)
    found = _statistics(passes, rope)
    if preset == "paper":
        scales, roundtrip = paper.bins(found.geometry, 1.0), _paper_roundtrip(found.geometry)
    else:
        scales, roundtrip = found.rms, _plain_roundtrip(found, rope)
    placed = ladder(measuring(roundtrip, evaluate), limits=step_limits(scales))
    default, warning = _chosen_default(placed.levels, rope, evaluate, progress)
    placed = at_length(placed, default, roundtrip=roundtrip)
    frequencies, table_ids = tables_of(passes, found, rope, placed.levels)
    return Profile(
        codec=preset,
        fingerprint=fingerprint,
        geometry=found.geometry,
        levels=placed.levels,
        default_level=default,
        rope=RopeMap.none(len(rope.of_plane)) if preset == "paper" else rope,
        scales=scales,
        means=None if preset == "paper" else found.means,
        frequencies=frequencies,
        table_ids=table_ids,
        noise_floor=noise_floor,
        notes=_notes(notes, placed, warning),
    )


def _check_arguments(
    preset: str, num_sinks: int, fingerprint: bytes, target_kl: tuple[float, ...]
) -> None:
    if preset not in CODECS_WITH_PROFILE:
        raise ValueError(f"expected a preset of {', '.join(CODECS_WITH_PROFILE)}; got {preset!r}")
    if not 0 <= num_sinks <= MOST_SINKS:
        raise ValueError(f"expected 0 to {MOST_SINKS} sinks, got {num_sinks}")
    if len(fingerprint) != 32:
        raise ValueError(f"expected a fingerprint of 32 bytes, got {len(fingerprint)}")
    falling = all(more > less for more, less in pairwise((*target_kl, 0.0)))
    if len(target_kl) != len(LADDER) or not falling:
        raise ValueError(f"expected {len(LADDER)} falling targets above 0, got {target_kl}")


def _notes(notes: dict[str, str] | None, placed: Ladder, warning: str) -> dict[str, str]:
    """What the caller says, and which targets were out of reach."""
    told = [*placed.out_of_reach, *([warning] if warning else [])]
    return {**(notes or {}), **({_OUT_OF_REACH: "\n".join(told)} if told else {})}


def _statistics(passes: Passes, rope: RopeMap) -> PlaneStatistics:
    """Of all samples; kept when it is complete."""
    saved = passes.checkpoint.load(STATISTICS)
    if saved is not None:
        passes.progress(Status(STATISTICS, message="taken up again, complete"))
        geometry = geometry_from_json(saved.state["geometry"])
        return PlaneStatistics(geometry, saved.arrays["means"], saved.arrays["rms"])
    found = plain.statistics((sample.kv for sample in passes.over(STATISTICS)), rope)
    arrays = {"means": found.means, "rms": found.rms}
    passes.checkpoint.save(
        STATISTICS, Saved(arrays, {"geometry": geometry_to_json(found.geometry)})
    )
    return found


def _chosen_default(
    levels: tuple[EncodingLevel, ...], rope: RopeMap, evaluate: Evaluate, progress: Progress
) -> tuple[str, str]:
    """The default level, and a warning where it is none of these."""
    known = default_level(levels)
    if known is not None:
        return known, ""

    def keeps(name: str) -> bool:
        found = evaluate(lambda kv, _: decode_chunk(encode_chunk(kv, level=name, rope=rope)))
        return all(map(_keeps_promise, found.values()))

    name = next(filter(keeps, (ADAPTIVE, PACKED)), LOSSLESS)
    best = min(worst(level.domains).kl for level in levels if level.domains)
    warning = (
        f"NO LEVEL KEEPS THE PROMISE of KL {PROMISED_KL:g} (the best has {best:.4g}): "
        f"the default level is {name}; more samples, or texts more like what is coded, may help"
    )
    progress(Status(LEVELS, len(LADDER), len(LADDER), warning))
    return name, warning


def default_level(levels: tuple[EncodingLevel, ...]) -> str | None:
    """The smallest level that keeps the promise in every domain; None if none does."""
    for level in levels:
        measured = [*level.domains.values(), *([level.quality] if level.quality else [])]
        if measured and all(map(_keeps_promise, measured)):
            return level.name
    return None


def _keeps_promise(quality: Quality) -> bool:
    right, original = quality.exact_match, quality.exact_match_uncompressed
    forgets = False
    if right is not None and original is not None and original >= _ABLE:
        forgets = right < original - PROMISED_ANSWERS
    within = quality.kl <= PROMISED_KL and quality.least_rel_ppl <= PROMISED_REL_PPL
    return within and not forgets


def _plain_roundtrip(found: PlaneStatistics, rope: RopeMap) -> Callable[[float], RoundTrip]:
    return lambda step: lambda kv, _: plain.roundtrip(kv, plain.blank_model(found, rope, step))


def _paper_roundtrip(geometry: Geometry) -> Callable[[float], RoundTrip]:
    def at(step: float) -> RoundTrip:
        rope = RopeMap.none(len(geometry.planes))
        tables = np.zeros((0, 256), np.uint16)
        model = CodingModel(paper.bins(geometry, step), np.zeros(0, np.int64), tables, None, rope)
        return lambda kv, _: paper.roundtrip(kv, model)

    return at


def tables_of(
    passes: Passes,
    found: PlaneStatistics,
    rope: RopeMap,
    levels: tuple[EncodingLevel, ...],
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Tables of levels of `plain` or `paper`, and per level the table of every coefficient."""
    if levels[0].codec == "paper":
        return _paper_tables(passes, found.geometry, levels)
    steps = [level.step for level in levels]
    models = [plain.blank_model(found, rope, step) for step in steps]
    counts = np.zeros((len(levels), found.geometry.values_per_token, 256), dtype=np.int64)
    saved, after = passes.checkpoint.load(TABLES), START
    if saved is not None and saved.state["steps"] == steps:
        counts[:] = saved.arrays["counts"]
        after = position_from_json(saved.state["position"])

    def keep(position: Position) -> Saved:
        state = {"steps": steps, "position": position_to_json(position)}
        return Saved({"counts": counts}, state)

    for sample in passes.over(TABLES, after, keep=keep):
        for index, model in enumerate(models):
            counts[index] += plain.symbol_counts(sample.kv, model)
    sums, ids = cluster(counts.reshape(-1, 256), max_tables=MAX_TABLES)
    frequencies = table_frequencies(sums, margin=MARGIN, escape=True)
    return frequencies, tuple(ids.reshape(len(levels), -1))


def _paper_tables(
    passes: Passes, geometry: Geometry, levels: tuple[EncodingLevel, ...]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    def fit(level: EncodingLevel) -> CodingModel:
        caches = (sample.kv for sample in passes.over(f"{TABLES} of level {level.name}"))
        return paper.fit(caches, geometry, level.step, margin=MARGIN)

    models = [fit(level) for level in levels]
    first = np.cumsum([0] + [len(model.frequencies) for model in models])
    frequencies = np.concatenate([model.frequencies for model in models])
    return frequencies, tuple(
        model.table_ids + offset for model, offset in zip(models, first, strict=False)
    )
