"""The rung of `transform` that a chunk names, and the part of it that some layers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from cachegen.codec.encoded import Block, EncodedChunk, Layers, named_layers, take
from cachegen.codec.memory import kept
from cachegen.codec.profile import Profile
from cachegen.codec.transform.importance import Importance
from cachegen.codec.transform.level import TransformLevel
from cachegen.errors import BitstreamError

_One = TypeVar("_One")
_PARTS: WeakKeyDictionary[Profile, dict[tuple[int, Layers], TransformLevel]] = WeakKeyDictionary()


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
