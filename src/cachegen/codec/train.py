"""Calibration of preset `transform`: what to learn, which coefficients to code, which tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from cachegen.codec import transform
from cachegen.codec.analysis import analyse, quantise_coefficients, strangeness
from cachegen.codec.basis import Transform
from cachegen.codec.learn import learn
from cachegen.codec.levels import PROMISED_KL, EncodingLevel
from cachegen.codec.moments import gather
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.sample import Samples
from cachegen.codec.sizing import plan_groups
from cachegen.codec.symbols import clipped_symbols
from cachegen.codec.tables import MARGIN, MAX_TABLES, cluster, histograms, table_frequencies
from cachegen.kvcache import Geometry, KVCache

# Coefficients whose spread is below this share of the step are not coded: they would cost decoding
# time and hardly ever be anything but zero.
_NEGLIGIBLE = 0.33
# Chunks may cost this much more than the costliest sample, and be this much stranger.
_SLACK = 1.25
# Held-out text like the samples reaches this strangeness, in nats per coefficient.
_ORDINARY = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class TransformTraining:
    """A transform that can quantise and reconstruct but has no levels yet.

    Attributes:
        transform: learned.
        geometry: of the caches it is for.
        rope: rotations of their keys.
        fingerprint: of the model.
    """

    transform: Transform
    geometry: Geometry
    rope: RopeMap
    fingerprint: bytes

    @classmethod
    def learn(
        cls,
        samples: Samples,
        *,
        rope: RopeMap,
        fingerprint: bytes,
        token_features: np.ndarray | None,
        max_profile_mb: float,
        num_sinks: int,
        progress: Callable[[str], None],
    ) -> TransformTraining:
        """Pass over the samples once and solve for the transform.

        Raises:
            ValueError: no samples, samples without gradients, or a profile too small for any
                transform.
        """
        found = iter(samples())
        first = next(found, None)
        if first is None:
            raise ValueError("expected at least one sample, got none")
        geometry = first.kv.geometry
        features = np.zeros((0, 0)) if token_features is None else token_features
        sizes = plan_groups(
            geometry, (len(features), features.shape[1]), max_profile_mb=max_profile_mb
        )
        progress(sizes.describe())
        moments = gather(
            chain([first], found),
            rope=rope,
            groups=sizes.groups,
            features=features,
            lags=len(sizes.lag_ranks),
            num_sinks=num_sinks,
            progress=progress,
        )
        progress("solving for the transform")
        learned = learn(
            moments,
            sizes.groups,
            features,
            lag_ranks=sizes.lag_ranks,
            most_coefficients=sizes.most_coefficients,
            num_sinks=num_sinks,
        )
        return cls(learned, geometry, rope, fingerprint)

    def num_active(self, step: float) -> tuple[int, ...]:
        """Leading coefficients of each group that are worth coding at a step."""
        least = (_NEGLIGIBLE * step) ** 2
        return tuple(int((group.variances > least).sum()) for group in self.transform.groups)

    def roundtrip(self, step: float) -> Callable[[KVCache, Sequence[int]], KVCache]:
        """What coding at a step and decoding does to caches."""
        active = self.num_active(step)
        level = transform.transform_level(
            self.transform,
            self.rope,
            step=step,
            num_active=active,
            table_ids=np.zeros(sum(active), dtype=np.int64),
            frequencies=np.zeros((0, 256), dtype=np.uint16),
        )
        return lambda kv, tokens: transform.roundtrip(kv, tokens, level)

    def finish(
        self, samples: Samples, levels: Sequence[EncodingLevel], *, default_level: str
    ) -> Profile:
        """The profile with these levels: their tables and bounds, from the samples."""
        active = [self.num_active(level.step) for level in levels]
        counts = [np.zeros((sum(one), 256), dtype=np.int64) for one in active]
        lost: list[list[float]] = []
        strange: list[float] = []
        for sample in samples():
            analysed = analyse(sample.kv, sample.tokens, self.transform, self.rope)
            strange.append(strangeness(analysed, self.transform, num_active=active[-1]))
            lost.append([])
            for index, level in enumerate(levels):
                quantised = quantise_coefficients(
                    analysed, self.transform, step=level.step, num_active=active[index]
                )
                lost[-1].append(quantised.distortion)
                integers = np.concatenate(quantised.integers, axis=1)
                counts[index] += histograms(clipped_symbols(integers))
        sums, ids = cluster(np.concatenate(counts), max_tables=MAX_TABLES)
        nats = _measured_over_modelled(levels, np.mean(lost, axis=0), default_level)
        bounds = _SLACK * nats * np.max(lost, axis=0)
        default = [level.name for level in levels].index(default_level)
        bounds[default] = min(bounds[default], PROMISED_KL)
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
            table_ids=tuple(np.split(ids, np.cumsum([len(one) for one in counts])[:-1])),
            transform=replace(
                self.transform,
                unit=self.transform.unit * nats**0.5,
                strangeness=max(_SLACK * max(strange), _ORDINARY),
            ),
            num_active=tuple(active),
        )


def _measured_over_modelled(
    levels: Sequence[EncodingLevel], modelled: np.ndarray, default_level: str
) -> float:
    """KL measured at the default level over what the metric says of it; 1 without a measurement."""
    for level, cost in zip(levels, modelled.tolist(), strict=True):
        if level.name == default_level and level.quality is not None and cost > 0:
            measured: float = level.quality.kl / cost
            return max(measured, 1e-9)
    return 1.0
