"""This package's codecs: levels of a profile or of none, `plain` and `paper` at any step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from cachegen.bitstream.chunk import decode, encode
from cachegen.codec import paper, plain
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.model import CodingModel
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.tables import MAX_TABLES, cluster, table_frequencies
from cachegen.evaluation.coder import Coder, Tokens
from cachegen.kvcache import Geometry, KVCache

PLAIN_STEPS = (2.8, 1.85, 1.2, 0.8, 0.53, 0.35, 0.23, 0.15)
PAPER_STEPS = (1.1, 0.75, 0.5, 0.34, 0.23, 0.155, 0.105, 0.07)
_TABLE_MARGIN = 3


def plain_coders(
    samples: Sequence[KVCache], rope: RopeMap, *, steps: Sequence[float] = PLAIN_STEPS
) -> Iterator[Coder]:
    """Preset `plain`: each step with a profile, and so with 64 tables, of its own."""
    found = plain.statistics(samples, rope)
    for step in steps:
        blank = plain.blank_model(found, rope, step)
        counts = np.sum([plain.symbol_counts(kv, blank) for kv in samples], axis=0)
        sums, ids = cluster(counts, max_tables=MAX_TABLES)
        tables = table_frequencies(sums, margin=_TABLE_MARGIN, escape=True)
        model = CodingModel(blank.steps, ids, tables, found.means, rope)
        profile = one_level_profile("plain", step, found.rms, model, found.geometry)
        yield profile_coder("plain", profile, profile.default_level)


def paper_coders(
    samples: Sequence[KVCache], *, steps: Sequence[float] = PAPER_STEPS
) -> Iterator[Coder]:
    """Preset `paper`: at each step a table for every channel of anchors and of deltas."""
    geometry = samples[0].geometry
    for step in steps:
        model = paper.fit(samples, geometry, step, margin=_TABLE_MARGIN)
        scales = paper.bins(geometry, 1.0)
        profile = one_level_profile("paper", step, scales, model, geometry)
        yield profile_coder("paper", profile, profile.default_level)


def one_level_profile(
    codec: str, step: float, scales: np.ndarray, model: CodingModel, geometry: Geometry
) -> Profile:
    """A profile with a single level, named by its step."""
    name = step_name(step)
    return Profile(
        codec=codec,
        fingerprint=bytes(32),
        geometry=geometry,
        levels=(EncodingLevel(name, codec, step),),
        default_level=name,
        rope=model.rope,
        scales=scales,
        means=model.means,
        frequencies=model.frequencies,
        table_ids=(model.table_ids,),
    )


def step_name(step: float) -> str:
    """A step as the name of a level."""
    return f"step-{step:g}".replace(".", "_")


def profile_coder(method: str, profile: Profile, level: str) -> Coder:
    """A level of a profile through the bitstream: whole packed chunks are counted."""
    threads = len(os.sched_getaffinity(0))

    def to_bytes(kv: KVCache, tokens: Tokens) -> bytes:
        return encode(kv, tokens=tokens, profile=profile, level=level, threads=threads)

    def from_bytes(data: bytes, tokens: Tokens) -> KVCache:
        return decode(data, tokens=tokens, profile=profile, threads=threads)

    return Coder(method, level, to_bytes, from_bytes)


def adaptive_coder(rope: RopeMap, level: str) -> Coder:
    """A level of those that need no profile."""
    threads = len(os.sched_getaffinity(0))

    def to_bytes(kv: KVCache, tokens: Tokens) -> bytes:
        del tokens
        return encode(kv, level=level, rope=rope, threads=threads)

    def from_bytes(data: bytes, tokens: Tokens) -> KVCache:
        del tokens
        return decode(data, threads=threads)

    return Coder("adaptive", level, to_bytes, from_bytes)
