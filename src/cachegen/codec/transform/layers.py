"""The part of a transform profile that codes some layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.profile import Profile
from cachegen.codec.transform.importance import Importance
from cachegen.codec.transform.rung import TransformLevel
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry

Layers = tuple[int, ...]
_One = TypeVar("_One")

_PARTS: WeakKeyDictionary[Profile, dict[tuple[int, Layers], TransformLevel]] = WeakKeyDictionary()


def named_layers(chunk: EncodedChunk) -> Layers | None:
    """The layers that a chunk says it holds; None where it holds all of them."""
    named = chunk.arrays.get("layers")
    return None if named is None else tuple(int(layer) for layer in named)


def geometry_of_layers(geometry: Geometry, layers: Layers | None) -> Geometry:
    """Of some layers, of all where that is None.

    Raises:
        BitstreamError: there is no such layer.
    """
    if layers is None:
        return geometry
    if layers[-1] >= geometry.num_layers:
        raise BitstreamError(
            f"there are {geometry.num_layers} layers, got layer {layers[-1]}", field="layers"
        )
    return geometry.of_layers(layers)


def rung_of_layers(profile: Profile, rung: int, layers: Layers | None) -> TransformLevel:
    """A rung of `transform` for some layers, made at the first call; for all where that is None.

    Raises:
        BitstreamError: a group holds some of them and others too.
    """
    if layers is None:
        return profile.rung(rung)
    known = _PARTS.setdefault(profile, {})
    if (rung, layers) not in known:
        known[rung, layers] = _part(profile.rung(rung), layers)
    return known[rung, layers]


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
