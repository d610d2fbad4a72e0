"""The part of a transform profile that codes some layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.profile import Profile
from cachegen.codec.transform import TransformLevel
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry

Layers = tuple[int, ...]

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


def planes_of(layers: Sequence[int]) -> list[int]:
    """Keys and values of layers."""
    return [plane for layer in layers for plane in (2 * layer, 2 * layer + 1)]


def _part(level: TransformLevel, layers: Layers) -> TransformLevel:
    planes, chosen = planes_of(layers), groups_of(level, layers)
    groups = tuple(
        replace(group, planes=tuple(planes.index(plane) for plane in group.planes))
        for group in (level.transform.groups[index] for index in chosen)
    )
    if [plane for group in groups for plane in group.planes] != list(range(len(planes))):
        raise BitstreamError("a layer group holds these layers and others", field="layers")
    return TransformLevel(
        transform=replace(level.transform, groups=groups),
        rope=level.rope.of_planes(planes),
        step=level.step,
        num_active=tuple(level.num_active[index] for index in chosen),
        bases=tuple(level.bases[index] for index in chosen),
        table_ids=tuple(level.table_ids[index] for index in chosen),
        frequencies=level.frequencies,
    )
