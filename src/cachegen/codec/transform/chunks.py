"""Chunks of codec `transform`: the rung that keeps a level's bound, and the one a chunk names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from cachegen.codec.encoded import Block, EncodedChunk, Layers, blank_chunk, named_layers
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.memory import kept, of_block
from cachegen.codec.model import take
from cachegen.codec.profile import Profile
from cachegen.codec.transform.analysis import Analysed, ood_score
from cachegen.codec.transform.basis import Transform
from cachegen.codec.transform.importance import Importance
from cachegen.codec.transform.quantisation import QuantisedRows, nominal_active
from cachegen.codec.transform.rung import TransformLevel, encode_blocks, tokens_digest
from cachegen.errors import BitstreamError
from cachegen.kvcache import KVCache

# Over what is lost on paper, since steps are whole eighths. Other margins were not measured.
_MARGIN = 1.05
# A second one is needed where the first finer steps lose a little too much. More were not measured.
_TRIES = 3
# How much finer than a level's own its steps may become; other limits were not measured. What is
# farther from what was learned gets the next level. Twice as fine at the finest level let base64
# stay in Qwen2.5-Coder's profile, at a KL of 0.0055.
_MOST_FINER = 1.5


def encode(
    kv: KVCache,
    tokens: Sequence[int] | np.ndarray,
    analysed: Analysed,
    level: EncodingLevel,
    profile: Profile,
    *,
    threads: int,
) -> EncodedChunk | None:
    """At the level, or as much finer as keeps the level's bound; None where nothing does.

    First its own steps become finer, 1.5 times at most; then the next levels are tried.

    Args:
        kv: the cache of the chunk.
        tokens: the chunk's own.
        analysed: the coefficients of the cache.
        level: of the profile.
        profile: of the model.
        threads: worker threads of the entropy coder.

    Raises:
        Unrepresentable: NaN or infinities.
    """
    distrust = _distrust(analysed, profile)
    for rung in range(profile.levels.index(level), len(profile.levels)):
        numbers = profile.rung(rung)
        is_between = profile.levels[rung] == level != profile.levels[-1]
        finest = _MOST_FINER if is_between else 1.0
        quantised = _within(numbers, analysed, level.bound / distrust, finest=finest)
        if quantised is not None:
            cost = distrust * quantised.distortion
            arrays = analysed.sinks | {
                "tokens_digest": tokens_digest(tokens),
                "rung": np.array([rung], dtype=np.uint8),
                "distortion": np.array([cost, level.bound], dtype=np.float32),
            }
            if quantised.multipliers is not None:
                arrays["multipliers"] = quantised.multipliers
            blocks = encode_blocks(quantised, numbers, threads=threads)
            chunk = replace(blank_chunk(kv, level), profile_hash=profile.hash)
            return replace(chunk, blocks=blocks, arrays=arrays)
    return None


def _within(
    level: TransformLevel, analysed: Analysed, most: float, *, finest: float
) -> QuantisedRows | None:
    """Rounded so that no more is lost, with steps finer by ``finest`` at most; None if that fails.

    What is lost falls with the square of the steps.
    """
    finer = 1.0
    for _ in range(_TRIES):
        quantised = level.quantiser.quantise(analysed, finer=finer)
        if quantised.distortion <= most:
            return quantised
        finer *= _MARGIN * math.sqrt(quantised.distortion / most)
        if quantised.multipliers is None or not finer <= finest:
            return None
    return None


def rung_of(chunk: EncodedChunk, profile: Profile) -> TransformLevel:
    """What a chunk was coded with: a rung of its profile, of the layers that it holds.

    Raises:
        BitstreamError: no such level or rung, or a cost beyond its bound.
    """
    rung = int(take(chunk.arrays, "rung", count=1)[0])
    measured = take(chunk.arrays, "distortion", count=2)
    names = [level.name for level in profile.levels]
    if chunk.level not in names:
        raise BitstreamError(f"its profile has no level {chunk.level!r}", field="level")
    if not names.index(chunk.level) <= rung < len(names):
        raise BitstreamError(f"there is no level {rung}, or it is coarser than asked", field="rung")
    if not 0 <= measured[0] <= measured[1] < np.inf:
        raise BitstreamError(f"expected 0 <= lost <= bound, got {measured}", field="distortion")
    return rung_of_layers(profile, rung, named_layers(chunk))


def _distrust(analysed: Analysed, profile: Profile) -> float:
    """By how much a chunk may cost more than the metric says: 1 within what was learned from.

    A metric learned on other text errs; how much, was found to grow with the out-of-distribution
    score.
    """
    assert profile.transform is not None
    found = ood_score(analysed, num_active=nominal_active(profile.num_active[-1]))
    return max(1.0, found / profile.transform.ood_score)


_One = TypeVar("_One")

_PARTS: WeakKeyDictionary[Profile, dict[tuple[int, Layers], TransformLevel]] = WeakKeyDictionary()


def rung_of_layers(profile: Profile, rung: int, layers: Layers | None) -> TransformLevel:
    """A rung of `transform` for some layers, the last few kept; for all where that is None.

    Raises:
        BitstreamError: a group holds some of them and others too.
    """
    if layers is None:
        return profile.rung(rung)
    known = _PARTS.setdefault(profile, {})
    return kept(known, (rung, layers), lambda: _part(profile.rung(rung), layers))


def groups_of(level: TransformLevel, layers: Layers) -> list[int]:
    """The groups that are all of these layers."""
    planes = set(planes_of(layers))
    groups = level.transform.groups
    return [index for index, group in enumerate(groups) if set(group.planes) <= planes]


def blocks_of(blocks: Sequence[Block], level: TransformLevel, layers: Layers) -> tuple[Block, ...]:
    """Those of a chunk of all layers that hold these, class after class."""
    chosen, every = groups_of(level, layers), len(level.transform.groups)
    return tuple(
        blocks[first + index] for first in range(0, len(blocks), every) for index in chosen
    )


def planes_of(layers: Sequence[int]) -> list[int]:
    """Keys and values of layers."""
    return [plane for layer in layers for plane in (2 * layer, 2 * layer + 1)]


def _part(level: TransformLevel, layers: Layers) -> TransformLevel:
    planes, chosen = planes_of(layers), groups_of(level, layers)

    def of_groups(every: tuple[_One, ...]) -> tuple[_One, ...]:
        return tuple(every[index] for index in chosen)

    groups = tuple(
        replace(group, planes=tuple(planes.index(plane) for plane in group.planes))
        for group in (level.transform.groups[index] for index in chosen)
    )
    if [plane for group in groups for plane in group.planes] != list(range(len(planes))):
        raise BitstreamError("a layer group holds these layers and others", field="layers")
    known = level.transform.importance
    importance = known and Importance(known.position, of_groups(known.groups))
    return TransformLevel(
        transform=replace(level.transform, groups=groups, importance=importance),
        rope=level.rope.of_planes(planes),
        step=level.step,
        num_active=tuple(map(of_groups, level.num_active)),
        bases=of_groups(level.bases),
        table_ids=tuple(map(of_groups, level.table_ids)),
        frequencies=level.frequencies,
    )


# The native synthesis works on so many columns, or a head's, and rows at a time
# (native/synthesis.cpp and synthesis_kernel.h).
_STRIP_COLUMNS, _STRIP_ROWS = 64, 48


def working_bytes(
    chunk: EncodedChunk,
    transform: Transform,
    num_active: tuple[tuple[tuple[int, ...], ...], ...],
    *,
    tables: int,
    threads: int,
) -> int:
    """At most so much memory `rung.decode` takes beside the planes, the chunk and the profile.

    Args:
        chunk: of any rung.
        transform: of its profile.
        num_active: per rung, class and group.
        tables: of the profile.
        threads: worker threads.
    """
    rows, planes = chunk.num_tokens, chunk.geometry.planes
    deepest = max((count for rung in num_active for own in rung for count in own), default=0)
    # A group's coefficients, once as they are and once as the kernel packs them, with its digits.
    steps = 8 * rows * deepest
    # Its symbols, twice, and which are escapes; some of it is as of one block.
    blocks = max((of_block(one, tables, threads=threads) for one in chunk.blocks), default=0)
    blocks += 2 * rows * deepest
    # Ids at each lag, twice; positions, depths, multipliers and their copies; 8 bytes each.
    lags, features = len(transform.features), transform.num_features
    ids = 8 * rows * (2 * lags + 16)
    # Cosines, sines and angles of the rotations that a group turns by.
    turns = (
        12
        * rows
        * max(
            (
                sum(planes[p].dim for p in group.planes if p < len(planes))
                for group in transform.groups
            ),
            default=0,
        )
    )
    # What the text adds: the rows of features that are named, and of a strip of columns their sums.
    vocabulary = max((len(table) for table in transform.features), default=0)
    widest = max((shape.dim for shape in planes), default=0) + 2 * _STRIP_COLUMNS
    lookups = 4 * lags * vocabulary + 4 * rows * features + 4 * threads * lags * rows * widest
    sums = threads * _STRIP_ROWS * 4 * widest
    sinks = 16 * transform.num_sinks * max((shape.width for shape in planes), default=0)
    return steps + blocks + ids + turns + lookups + sums + sinks
