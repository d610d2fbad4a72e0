"""Configurations of the transform codec, and coders that were learned by them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch

from cachegen.codec.calibration.kept import KeptRows, keep
from cachegen.codec.calibration.learn import learn, learn_importance
from cachegen.codec.calibration.moments import Moments, blank_moments, gather
from cachegen.codec.calibration.sample import Sample
from cachegen.codec.calibration.train import TransformTraining
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.matrix import coded_planes
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform import quantisation
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.evaluation.methods.presets import profile_coder
from cachegen.kvcache import KVCache

STEPS = (4.5, 3.0, 2.0, 1.35, 0.9, 0.6, 0.4, 0.27, 0.18)
_NO_BOUND = 1e9


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to learn and to round.

    Attributes:
        name: what it adds to the one before.
        unrotate: whether rotations are taken off keys.
        layers: of a group, keys and values together; 0 for each plane by itself.
        metric: `none`, `weights` (one for each plane) or `fisher`.
        lag_ranks: text features of the token itself, of the one before, and so on.
        num_sinks: first tokens kept at eight bits.
        dead_zone: whether more than half a step becomes zero.
        recent_tokens: last tokens kept at the finest step, in a chunk of their own.
        weighted: whether tokens get steps by what they weigh.
    """

    name: str
    unrotate: bool = True
    layers: int = 0
    metric: str = "fisher"
    lag_ranks: tuple[int, ...] = ()
    num_sinks: int = 4
    dead_zone: bool = False
    recent_tokens: int = 0
    weighted: bool = False

    def rounding(self) -> AbstractContextManager[object]:
        """Within it, coding rounds as this configuration wants."""
        return nullcontext() if self.dead_zone else patch.object(quantisation, "ROUNDING", 0.5)


def path(num_layers: int) -> tuple[Configuration, ...]:
    """From components of single planes to the whole codec; then without sinks, with recent tokens
    kept fine, and with steps by what tokens weigh."""
    start = Configuration("planes as cached", unrotate=False, metric="none")
    unrotated = replace(start, name="un-rotated keys", unrotate=True)
    joint = replace(unrotated, name="K and V of a layer", layers=1)
    pairs = replace(joint, name="pairs of layers", layers=2)
    everything = replace(pairs, name="all layers", layers=num_layers)
    weights = replace(everything, name="weights of planes", metric="weights")
    metric = replace(weights, name="Fisher metric", metric="fisher")
    token = replace(metric, name="text: own token", lag_ranks=(128,))
    lags = replace(token, name="text: two tokens before", lag_ranks=(128, 40, 40))
    dead_zone = replace(lags, name="dead zone", dead_zone=True)
    no_sinks = replace(dead_zone, name="no sinks", num_sinks=0)
    recent = replace(no_sinks, name="last 64 tokens fine", recent_tokens=64)
    weighted = replace(dead_zone, name="tokens weigh", weighted=True)
    layout = (start, unrotated, joint, pairs, everything)
    return (*layout, weights, metric, token, lags, dead_zone, no_sinks, recent, weighted)


def configured_coders(
    configuration: Configuration,
    samples: Sequence[Sample],
    rope: RopeMap,
    features: np.ndarray,
) -> list[Coder]:
    """A coder for each step; they have to run within `configuration.rounding()`."""
    training = _learn(configuration, samples, rope, features)
    levels = [EncodingLevel(f"step-{i}", "transform", step) for i, step in enumerate(STEPS)]
    profile = training.finish(levels, default_level=levels[0].name)
    unbounded = tuple(replace(level, bound=_NO_BOUND) for level in profile.levels)
    profile = replace(profile, levels=unbounded)
    coders = [profile_coder("transform", profile, level.name) for level in levels]
    return [
        replace(_with_recent(coder, coders[-1], configuration), method=configuration.name)
        for coder in coders
    ]


def _with_recent(coder: Coder, finest: Coder, configuration: Configuration) -> Coder:
    """A coder whose last tokens go through the finest one."""
    count = configuration.recent_tokens
    if not count:
        return coder

    def to_bytes(kv: KVCache, tokens: Tokens) -> bytes:
        cut = kv.num_tokens - count
        first = coder.encode(kv.slice(0, cut), tokens[:cut])
        rest = finest.encode(kv.slice(cut, kv.num_tokens), tokens[cut:])
        return len(first).to_bytes(4, "little") + first + rest

    def from_bytes(data: bytes, tokens: Tokens) -> KVCache:
        stop, cut = 4 + int.from_bytes(data[:4], "little"), len(tokens) - count
        parts = [coder.decode(data[4:stop], tokens[:cut]), finest.decode(data[stop:], tokens[cut:])]
        return KVCache.concat(parts)

    return replace(coder, encode=to_bytes, decode=from_bytes)


def _learn(
    configuration: Configuration, samples: Sequence[Sample], rope: RopeMap, features: np.ndarray
) -> TransformTraining:
    geometry = samples[0].kv.geometry
    rope = rope if configuration.unrotate else RopeMap.none(len(geometry.planes))
    planes = len(geometry.planes)
    together = 2 * configuration.layers or 1
    groups = [tuple(range(p, min(p + together, planes))) for p in range(0, planes, together)]
    known = features if configuration.lag_ranks else np.zeros((0, 0), np.float32)
    moments = blank_moments(
        geometry,
        groups,
        num_features=len(configuration.lag_ranks) * known.shape[1],
        continuation_tokens=samples[0].continuation_tokens,
    )
    rows: list[KeptRows] = []
    gather(
        samples,
        moments,
        rope=rope,
        groups=groups,
        features=known,
        lags=len(configuration.lag_ranks),
        num_sinks=configuration.num_sinks,
        keep_rows=rows.append,
    )
    learned = learn(
        _with_metric(moments, groups, configuration.metric),
        groups,
        known,
        lag_ranks=configuration.lag_ranks,
        most_coefficients=max(sum(geometry.planes[p].width for p in group) for group in groups),
        num_sinks=configuration.num_sinks,
    )
    if configuration.weighted:
        learned = replace(learned, importance=learn_importance(learned, rows))
    return TransformTraining(learned, geometry, rope, bytes(32), tuple(rows))


def _with_metric(moments: Moments, groups: Sequence[tuple[int, ...]], kind: str) -> Moments:
    """The same moments with simpler second moments of gradients."""
    if kind == "fisher":
        return moments
    widths = [[moments.geometry.planes[p].width for p in group] for group in groups]
    found = []
    for gg, own in zip(moments.gg, widths, strict=True):
        means = torch.cat([part.mean().expand(len(part)) for part in gg.diagonal().split(own)])
        found.append(means.diag() if kind == "weights" else torch.eye(len(gg), dtype=gg.dtype))
    return replace(moments, gg=found)


def between_levels(profile: Profile, samples: Sequence[Sample]) -> Iterator[Coder]:
    """The profile's own transform at steps half-way between those of its levels."""
    assert profile.transform is not None
    rows = tuple(_rows(sample, profile) for sample in samples)
    training = TransformTraining(
        profile.transform, profile.geometry, profile.rope, profile.fingerprint, rows
    )
    levels = [
        EncodingLevel(
            f"{worse.name}-{better.name}", "transform", math.sqrt(worse.step * better.step)
        )
        for worse, better in pairwise(profile.levels)
    ]
    finished = training.finish(levels, default_level=levels[-1].name)
    for level in levels:
        yield profile_coder("transform", finished, level.name)


def _rows(sample: Sample, profile: Profile) -> KeptRows:
    """All rows of a sample, in the groups of a profile, without gradients."""
    assert profile.transform is not None
    sinks = profile.transform.num_sinks
    planes = dict(coded_planes(sample.kv, profile.rope, most_sinks=sinks))
    x = [
        torch.cat([planes[plane] for plane in group.planes], dim=1)
        for group in profile.transform.groups
    ]
    return keep(sample.tokens, np.arange(sinks, len(sample.tokens)), x, [])
