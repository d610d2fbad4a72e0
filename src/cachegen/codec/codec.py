"""A KV cache to a coded chunk and back: picks the codec that the level asks for."""

from __future__ import annotations

from dataclasses import replace

import torch

from cachegen.codec import fixed, lossless, matrix, paper, plain
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.levels import (
    FIXED_LEVELS,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
    EncodingLevel,
    find_level,
)
from cachegen.codec.model import CodingModel, model_from_arrays, model_to_arrays
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import Unrepresentable
from cachegen.errors import BitstreamError, ProfileMismatch
from cachegen.kvcache import KVCache

_EIGHT_BIT_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


def resolve_level(profile: Profile | None, name: str | None) -> EncodingLevel:
    """The level of a name; without one the profile's default.

    Raises:
        ValueError: an unknown name.
    """
    if profile is not None:
        return find_level(profile.levels + FIXED_LEVELS, name or profile.default_level)
    return find_level(UNCALIBRATED_LADDER + FIXED_LEVELS, name or UNCALIBRATED_DEFAULT)


def encode_chunk(
    kv: KVCache,
    *,
    profile: Profile | None = None,
    level: str | None = None,
    rope: RopeMap | None = None,
    threads: int = 2,
) -> EncodedChunk:
    """Code a cache at a level.

    A lossy level that cannot represent the cache (NaN, infinities, 8-bit floats) gives way to
    `lossless`; the chunk's `codec` tells.

    Args:
        kv: the tokens of the chunk.
        profile: statistics of the model; without one the chunk carries its own.
        level: name; the profile's default when None.
        rope: without a profile, how keys are rotated; unknown when None: they stay rotated.
        threads: worker threads of the entropy coder.

    Raises:
        ValueError: an unknown level.
        ProfileMismatch: a profile of another geometry.
    """
    chosen = resolve_level(profile, level)
    if profile is not None and profile.geometry != kv.geometry:
        raise ProfileMismatch(
            f"the profile is for {profile.geometry}, the cache is {kv.geometry}; "
            "calibrate a profile for this model"
        )
    kv = kv.to("cpu")
    if kv.dtype in _EIGHT_BIT_DTYPES and chosen.codec != "raw":
        chosen = replace(chosen, codec="lossless")
    try:
        return _encode(kv, chosen, profile, rope or RopeMap.none(2 * kv.num_layers), threads)
    except Unrepresentable:
        return _encode(kv, replace(chosen, codec="lossless"), None, RopeMap.none(0), threads)


def decode_chunk(
    chunk: EncodedChunk, *, profile: Profile | None = None, threads: int = 2
) -> KVCache:
    """The cache of a chunk.

    Raises:
        BitstreamError: arrays that do not fit together or do not decode.
        ProfileMismatch: the chunk needs another profile than the one given.
    """
    check_profile(chunk, profile)
    if chunk.codec == "raw":
        return fixed.decode_raw(chunk)
    if chunk.codec == "packed":
        return fixed.decode_packed(chunk)
    if chunk.codec == "lossless":
        return lossless.decode(chunk, threads=threads)
    model = _model_of(chunk, profile)
    if chunk.codec == "paper":
        return paper.decode(chunk, model, threads=threads)
    return plain.decode(chunk, model, threads=threads)


def check_profile(chunk: EncodedChunk, profile: Profile | None) -> None:
    """Refuse to decode with another profile than the chunk was coded with.

    Raises:
        ProfileMismatch: wrong or missing profile.
    """
    if chunk.profile_hash == NO_PROFILE:
        return
    if profile is None or profile.hash != chunk.profile_hash:
        given = "none" if profile is None else profile.hash.hex()
        raise ProfileMismatch(
            f"the chunk was coded with profile {chunk.profile_hash.hex()}, got {given}; "
            "pass that profile"
        )
    if profile.geometry != chunk.geometry:
        raise ProfileMismatch(
            f"the chunk is {chunk.geometry}, its profile is for {profile.geometry}"
        )


def _encode(
    kv: KVCache, level: EncodingLevel, profile: Profile | None, rope: RopeMap, threads: int
) -> EncodedChunk:
    chunk = EncodedChunk(
        level=level.name,
        codec=level.codec,
        geometry=kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
        tokens_held=matrix.tokens_held(kv),
    )
    if level.codec == "raw":
        return replace(chunk, arrays=fixed.encode_raw(kv))
    if level.codec == "packed":
        return replace(chunk, arrays=fixed.encode_packed(kv))
    if level.codec == "lossless":
        blocks, arrays = lossless.encode(kv, threads=threads)
        return replace(chunk, blocks=blocks, arrays=arrays)
    model = profile.model(level.name) if profile else plain.fit(kv, rope, level.step)
    codec = paper if level.codec == "paper" else plain
    blocks, arrays = codec.encode(kv, model, threads=threads)
    if profile is None:
        return replace(chunk, blocks=blocks, arrays=arrays | model_to_arrays(model))
    return replace(chunk, blocks=blocks, arrays=arrays, profile_hash=profile.hash)


def _model_of(chunk: EncodedChunk, profile: Profile | None) -> CodingModel:
    if chunk.profile_hash == NO_PROFILE:
        return model_from_arrays(chunk.arrays, chunk.geometry, codec=chunk.codec)
    assert profile is not None
    if profile.codec != chunk.codec:
        raise ProfileMismatch(
            f"the chunk was coded by {chunk.codec!r}, its profile is for {profile.codec!r}"
        )
    if chunk.level not in [level.name for level in profile.levels]:
        raise BitstreamError(f"its profile has no level {chunk.level!r}", field="level")
    if chunk.level not in [level.name for level in profile.levels]:
        raise BitstreamError(f"the profile has no level {chunk.level!r}", field="level")
    return profile.model(chunk.level)
