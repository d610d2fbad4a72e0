"""Some layers of a cache as a chunk of their own, which names them.

A chunk of `transform` is made by coding all layers and dealing out the blocks, so that its step
and its bound hold for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cachegen.codec.codec import encode_chunk, resolve_level
from cachegen.codec.encoded import EncodedChunk, Layers
from cachegen.codec.fixed import pack_planes
from cachegen.codec.levels import LOSSLESS, uncalibrated
from cachegen.codec.matrix import sinks_among
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.transform.layers import blocks_of, planes_of
from cachegen.kvcache import KVCache


def can_split(profile: Profile | None, level: str, kinds: Sequence[Layers]) -> bool:
    """Whether a level can be stored kind by kind: no group of `transform` mixes two of them.

    Raises:
        ValueError: an unknown level.
    """
    if profile is None or resolve_level(profile, level) not in profile.levels:
        return True
    if profile.transform is None:
        return False
    groups = ({plane // 2 for plane in group.planes} for group in profile.transform.groups)
    return all(any(group <= set(layers) for layers in kinds) for group in groups)


def encode_kinds(
    kv: KVCache,
    kinds: Sequence[Layers],
    *,
    tokens: Sequence[int] | np.ndarray | None = None,
    profile: Profile | None = None,
    level: str,
    rope: RopeMap | None = None,
) -> tuple[EncodedChunk, ...]:
    """A chunk of each kind of layers, at a level that can be split.

    Args:
        kv: the cache of the chunk, all layers.
        kinds: ascending layers of each.
        tokens, profile, level, rope: as for `encode_chunk`, of all layers.
    """
    rope = profile.rope if profile else rope or RopeMap.none(2 * kv.num_layers)
    if profile is None or resolve_level(profile, level) not in profile.levels:
        return tuple(_alone(kv, layers, rope, level, level) for layers in kinds)
    whole = encode_chunk(kv, tokens=tokens, profile=profile, level=level)
    if whole.profile_hash == NO_PROFILE:
        alone = LOSSLESS if whole.codec == LOSSLESS else uncalibrated(whole.level).name
        return tuple(_alone(kv, layers, rope, alone, level) for layers in kinds)
    return tuple(_dealt(whole, kv.to("cpu"), layers, profile) for layers in kinds)


def _dealt(whole: EncodedChunk, kv: KVCache, layers: Layers, profile: Profile) -> EncodedChunk:
    """The blocks and sinks of some layers."""
    rung = profile.rung(int(whole.arrays["rung"][0]))
    own = kv.of_layers(layers)
    skipped = sinks_among(kv.start, kv.num_tokens, most=rung.transform.num_sinks)
    sinks = pack_planes([plane[:, :skipped] for plane in own.planes()])
    return replace(
        _named(whole, layers, sinks),
        geometry=own.geometry,
        tokens_held=(kv.num_tokens,) * len(layers),
        blocks=blocks_of(whole.blocks, rung, layers),
    )


def _alone(kv: KVCache, layers: Layers, rope: RopeMap, coded_at: str, level: str) -> EncodedChunk:
    own = rope.of_planes(planes_of(layers))
    chunk = encode_chunk(kv.of_layers(layers), level=coded_at, rope=own)
    return replace(_named(chunk, layers, {}), level=level)


def _named(chunk: EncodedChunk, layers: Layers, instead: dict[str, np.ndarray]) -> EncodedChunk:
    arrays = chunk.arrays | instead | {"layers": np.array(layers, dtype=np.uint16)}
    return replace(chunk, arrays=arrays)
