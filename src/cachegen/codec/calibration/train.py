"""Calibration of preset `transform`: what to learn, which coefficients to code, which tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from cachegen.codec.calibration.checkpoint import Checkpoint, Saved
from cachegen.codec.calibration.kept import KeptRows, load, most_rows, save
from cachegen.codec.calibration.learn import learn, learn_importance
from cachegen.codec.calibration.moments import Moments, blank_moments, gather
from cachegen.codec.calibration.progress import Status
from cachegen.codec.calibration.sample import START, Passes, RoundTrip
from cachegen.codec.calibration.sizing import TransformSizes, plan_groups
from cachegen.codec.calibration.stored_moments import (
    geometry_from_json,
    geometry_to_json,
    moments_from_saved,
    moments_to_saved,
)
from cachegen.codec.levels import PROMISED_KL, EncodingLevel
from cachegen.codec.profile import Profile, StepLimits, step_limits
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import clipped_symbols
from cachegen.codec.tables import MARGIN, MAX_TABLES, cluster, histograms, table_frequencies
from cachegen.codec.transform import rung as transform
from cachegen.codec.transform.analysis import analyse, ood_score
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.importance import relative_steps
from cachegen.codec.transform.level import transform_level
from cachegen.codec.transform.quantisation import Quantiser, nominal_active
from cachegen.codec.transform.stored_transform import transform_from_arrays, transform_to_arrays
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, KVCache

FEATURES, MOMENTS, SOLVING, TABLES = "features", "moments", "solving", "tables"
TokenFeatures = np.ndarray | Callable[[], np.ndarray] | None
_SOLVED = "transform"

# Coefficients whose spread is below this share of the step are not coded: they would cost decoding
# time and hardly ever be anything but zero (docs/decisions/2026-11-29-token-weights.md has 0.25 to
# 0.6 beside it).
_NEGLIGIBLE = 0.33
# Chunks may cost this much more than the costliest sample, and have an out-of-distribution score
# this much higher. Arbitrary: 1.1 to 2 do; no bound of a default level is above the promise.
_SLACK = 1.25
# Coefficients may be this much larger than the largest that was learned from. Arbitrary: 1.2 to 4
# do; chunks with larger ones are coded otherwise.
_REACH = 1.5
# Held-out text like the samples reaches this out-of-distribution score, in nats per coefficient
# (docs/decisions/2026-11-21-transform-codec.md).
_ORDINARY = 0.03
# A bound of 0 would refuse everything; one beyond float32 no chunk could carry.
_BOUNDS = (1e-12, 1e30)
# Of units and scores, as FORMAT.md has it.
_RANGE = (1e-30, 1e30)


@dataclass(frozen=True, slots=True, eq=False)
class TransformTraining:
    """A transform that can quantise and reconstruct but has no levels yet.

    Attributes:
        transform: learned.
        geometry: of the caches it is for.
        rope: rotations of their keys.
        fingerprint: of the model.
        rows: of every sample, kept.
        scores: by the steps of round trips, the largest out-of-distribution score among what was
            coded at them.
    """

    transform: Transform
    geometry: Geometry
    rope: RopeMap
    fingerprint: bytes
    rows: tuple[KeptRows, ...]
    scores: dict[float, float] = field(default_factory=dict)

    @classmethod
    def learn(
        cls,
        passes: Passes,
        *,
        rope: RopeMap,
        fingerprint: bytes,
        token_features: TokenFeatures,
        max_profile_mb: float,
        num_sinks: int,
        windows: Sequence[int] = (),
    ) -> TransformTraining:
        """Pass over the samples once and solve for the transform; what was kept is not redone.

        Raises:
            ValueError: no samples, samples without gradients or with NaN, or a profile too small
                for any transform.
        """
        saved = passes.checkpoint.load(_SOLVED)
        if saved is not None:
            passes.progress(Status(SOLVING, message="taken up again, solved already"))
            geometry = geometry_from_json(saved.state["geometry"])
            found = transform_from_arrays(dict(saved.arrays), geometry)
            rows = _rows_so_far(passes.checkpoint, saved.state["num_samples"])
            if rows is not None:
                return cls(replace(found, ood_score=np.inf), geometry, rope, fingerprint, rows)
        features = _features(token_features, passes.checkpoint)
        moments, sizes, rows = _gathered(
            passes,
            features,
            rope=rope,
            max_profile_mb=max_profile_mb,
            num_sinks=num_sinks,
            windows=windows,
        )
        passes.progress(Status(SOLVING))
        found = learn(
            moments,
            sizes.groups,
            features,
            lag_ranks=sizes.lag_ranks,
            most_coefficients=sizes.most_coefficients,
            num_sinks=num_sinks,
        )
        found = replace(found, importance=learn_importance(found, rows))
        _keep_solved(passes.checkpoint, found, moments.geometry, len(rows))
        return cls(found, moments.geometry, rope, fingerprint, rows)

    def num_active(self, step: float) -> tuple[tuple[int, ...], ...]:
        """Per class of tokens and group, leading coefficients that are worth coding at a step."""
        return tuple(
            tuple(
                int((group.variances > (_NEGLIGIBLE * step * relative) ** 2).sum())
                for group in self.transform.groups
            )
            for relative in relative_steps(self.transform.num_classes)
        )

    def roundtrip(self, step: float) -> RoundTrip:
        """What coding at a step and decoding does to caches."""
        active = self.num_active(step)
        level = transform_level(
            self.transform,
            self.rope,
            step=step,
            num_active=active,
            table_ids=np.zeros(sum(map(sum, active)), dtype=np.int64),
            frequencies=np.zeros((0, 256), dtype=np.uint16),
        )
        nominal = nominal_active(active)
        self.scores[step] = 0.0

        def coded(kv: KVCache, tokens: Sequence[int]) -> KVCache:
            analysed = analyse(kv, tokens, self.transform, self.rope)
            score = ood_score(analysed, num_active=nominal)
            self.scores[step] = max(score, self.scores[step])
            return transform.roundtrip(kv, tokens, level, analysed=analysed)

        return coded

    def step_limits(self) -> StepLimits:
        """Steps at which no row that was learned from leaves the grid, with a margin."""
        grid, limits = self.transform.grid, step_limits(None)
        largest = max(
            float(own.abs().max())
            for kept in self.rows
            for own in kept.analysed(self.transform).leading
        )
        finest = _REACH * largest * grid.fraction / grid.most
        return replace(limits, finest=min(max(finest, limits.finest), limits.coarsest))

    def highest_ood_score(
        self, levels: Sequence[EncodingLevel], evaluate: Callable[[RoundTrip], object]
    ) -> float:
        """The largest out-of-distribution score among the contexts levels were measured on."""
        finest = levels[-1].step
        if finest in self.scores:
            return self.scores[finest]
        active, found = nominal_active(self.num_active(finest)), [0.0]

        def look(kv: KVCache, tokens: Sequence[int]) -> KVCache:
            analysed = analyse(kv, tokens, self.transform, self.rope)
            found.append(ood_score(analysed, num_active=active))
            return kv

        evaluate(look)
        return max(found)

    def finish(
        self, levels: Sequence[EncodingLevel], *, default_level: str, highest: float = 0.0
    ) -> Profile:
        """The profile with these levels: their tables and bounds, from the rows kept.

        Args:
            levels: placed.
            default_level: one of them, or another that takes their place.
            highest: the out-of-distribution score that quality was measured at.
        """
        active = [self.num_active(level.step) for level in levels]
        found = self._tally(levels, active)
        sums, ids = cluster(found.counts, max_tables=MAX_TABLES)
        nats = _measured_over_modelled(levels, np.mean(found.lost, axis=0), default_level)
        bounds = np.clip(_SLACK * nats * np.max(found.lost, axis=0), *_BOUNDS)
        for index, level in enumerate(levels):
            if level.name == default_level:
                bounds[index] = min(bounds[index], PROMISED_KL)
        counts = [sum(map(sum, one)) for one in active]
        return Profile(
            codec="transform",
            fingerprint=self.fingerprint,
            geometry=self.geometry,
            levels=tuple(
                replace(level, bound=bound)
                for level, bound in zip(levels, bounds.tolist(), strict=True)
            ),
            default_level=default_level,
            rope=self.rope,
            frequencies=table_frequencies(sums, margin=MARGIN, escape=True),
            table_ids=tuple(np.split(ids, np.cumsum(counts)[:-1])),
            transform=replace(
                self.transform,
                unit=min(max(self.transform.unit * nats**0.5, _RANGE[0]), _RANGE[1]),
                ood_score=min(max(_SLACK * max(highest, *found.scores), _ORDINARY), _RANGE[1]),
            ),
            num_active=tuple(active),
        )

    def _tally(
        self, levels: Sequence[EncodingLevel], active: Sequence[tuple[tuple[int, ...], ...]]
    ) -> _Tally:
        """What the levels make of the rows kept."""
        ends = np.cumsum([0] + [count for one in active for own in one for count in own])
        found = _Tally(np.zeros((int(ends[-1]), 256), dtype=np.int64), [], [])
        num_groups = len(self.transform.groups)
        quantisers = [
            Quantiser.of(self.transform, step=level.step, num_active=own)
            for level, own in zip(levels, active, strict=True)
        ]
        for kept in self.rows:
            analysed = kept.analysed(self.transform)
            nominal = nominal_active(active[-1])
            found.scores.append(ood_score(analysed, num_active=nominal))
            found.lost.append([])
            for index, quantiser in enumerate(quantisers):
                quantised = quantiser.quantise(analysed, few_rows=0)
                found.lost[-1].append(quantised.distortion)
                for one, integers in zip(quantised.classes, quantised.integers, strict=True):
                    first = (index * self.transform.num_classes + one.index) * num_groups
                    counts = found.counts[ends[first] : ends[first + num_groups]]
                    counts += histograms(clipped_symbols(np.concatenate(integers, axis=1)))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Tally:
    """What levels make of the samples.

    Attributes:
        counts: int64 (coefficients of all levels, 256): how often each takes each symbol.
        lost: per sample, the distortion at each level.
        scores: the out-of-distribution score of each sample.
    """

    counts: np.ndarray
    lost: list[list[float]]
    scores: list[float]


def _gathered(
    passes: Passes,
    features: np.ndarray,
    *,
    rope: RopeMap,
    max_profile_mb: float,
    num_sinks: int,
    windows: Sequence[int],
) -> tuple[Moments, TransformSizes, tuple[KeptRows, ...]]:
    """The moments of all samples, and rows of each; those kept on disk are taken up again."""
    saved = passes.checkpoint.load(MOMENTS)
    kept, after = moments_from_saved(saved) if saved else (None, START)
    rows = list(_rows_so_far(passes.checkpoint, after.count) or ())
    if len(rows) < after.count:
        kept, after = None, START
    samples = passes.over(
        MOMENTS, after, keep=lambda at: moments_to_saved(moments, at), keep_last=True
    )
    if kept is not None:
        geometry, continuation_tokens = kept.geometry, kept.num_following
    else:
        first = next(samples, None)
        if first is None:
            raise ValueError("expected at least one sample, got none")
        samples = chain([first], samples)
        geometry, continuation_tokens = first.kv.geometry, first.continuation_tokens
    shape = (len(features), features.shape[1])
    sizes = plan_groups(geometry, shape, max_profile_mb=max_profile_mb, windows=windows)
    passes.progress(Status(MOMENTS, after.count, passes.num_samples, sizes.describe()))
    moments = kept or blank_moments(
        geometry,
        sizes.groups,
        num_features=len(sizes.lag_ranks) * features.shape[1],
        continuation_tokens=continuation_tokens,
    )

    def keep_rows(found: KeptRows) -> None:
        rows.append(found)
        save(passes.checkpoint, len(rows), found)

    gather(
        samples,
        moments,
        rope=rope,
        groups=sizes.groups,
        features=features,
        lags=len(sizes.lag_ranks),
        num_sinks=num_sinks,
        most_rows=most_rows(geometry.values_per_token, passes.num_samples),
        keep_rows=keep_rows,
    )
    return moments, sizes, tuple(rows)


def _rows_so_far(checkpoint: Checkpoint, count: int) -> tuple[KeptRows, ...] | None:
    """The rows of so many samples; None where some are not kept."""
    found = [load(checkpoint, number) for number in range(1, count + 1)]
    complete = tuple(one for one in found if one is not None)
    return complete if len(complete) == count else None


def _features(given: TokenFeatures, checkpoint: Checkpoint) -> np.ndarray:
    """Of the vocabulary: float32 (vocabulary, features); computed once, however often cut off."""
    if not callable(given):
        return np.zeros((0, 0)) if given is None else given
    saved = checkpoint.load(FEATURES)
    if saved is not None:
        return saved.arrays["features"]
    found = given()
    checkpoint.save(FEATURES, Saved({"features": found}))
    return found


def _keep_solved(
    checkpoint: Checkpoint, found: Transform, geometry: Geometry, num_samples: int
) -> None:
    """Keep a transform in place of the moments, which stay where it cannot be kept.

    One that no profile can hold ends here.

    Raises:
        ValueError: it holds NaN, infinities or units beyond the format.
    """
    arrays = transform_to_arrays(replace(found, ood_score=1.0))
    try:
        transform_from_arrays(arrays, geometry)
    except BitstreamError as exc:
        raise ValueError(
            f"the transform solved from these samples is none that a profile can hold ({exc}); "
            "their keys, values or gradients are extreme: try a wider dtype or other texts"
        ) from exc
    state = {"geometry": geometry_to_json(geometry), "num_samples": num_samples}
    if checkpoint.save(_SOLVED, Saved(arrays, state)):
        checkpoint.drop(MOMENTS, FEATURES)


def _measured_over_modelled(
    levels: Sequence[EncodingLevel], modelled: np.ndarray, default_level: str
) -> float:
    """KL measured at the default level over what the metric says of it; 1 without a measurement.

    At the finest level where the default is none of them.
    """
    names = [level.name for level in levels]
    default = default_level if default_level in names else names[-1]
    for level, cost in zip(levels, modelled.tolist(), strict=True):
        if level.name == default and level.quality is not None and cost > 0:
            measured: float = level.quality.kl / cost
            return min(max(measured, 1e-9), 1e9)
    return 1.0
