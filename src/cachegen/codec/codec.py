"""A KV cache to a coded chunk and back: picks the codec that the level asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cachegen.codec import fixed, lossless, matrix, paper, plain
from cachegen.codec.adaptive import coding as adaptive
from cachegen.codec.encoded import EncodedChunk
from cachegen.codec.levels import (
    SELF_CONTAINED,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
    EncodingLevel,
    find_level,
)
from cachegen.codec.matrix import Planes
from cachegen.codec.model import CodingModel, model_from_arrays, model_to_arrays, take
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import Unrepresentable
from cachegen.codec.transform import rung as transform
from cachegen.codec.transform.analysis import Analysed, analyse, distance, ood_score
from cachegen.codec.transform.layers import geometry_of_layers, named_layers, rung_of_layers
from cachegen.codec.transform.quantisation import nominal_active
from cachegen.errors import BitstreamError, ProfileMismatch
from cachegen.kvcache import KVCache

UNKNOWN = bytes(32)
_EIGHT_BIT_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


def resolve_level(profile: Profile | None, name: str | None) -> EncodingLevel:
    """The level of a name; without one the profile's default.

    Raises:
        ValueError: an unknown name.
    """
    if profile is not None:
        return find_level(profile.levels + SELF_CONTAINED, name or profile.default_level)
    return find_level(UNCALIBRATED_LADDER + SELF_CONTAINED, name or UNCALIBRATED_DEFAULT)


def encode_chunk(
    kv: KVCache,
    *,
    tokens: Sequence[int] | np.ndarray | None = None,
    profile: Profile | None = None,
    level: str | None = None,
    rope: RopeMap | None = None,
    threads: int = 2,
) -> EncodedChunk:
    """Code a cache at a level.

    A lossy level that cannot represent the cache (NaN, infinities, 8-bit floats), or not within
    its bound, gives way to a finer one, to `plain` or to `lossless`; the chunk's `codec` tells.

    Args:
        kv: the cache of the chunk.
        tokens: the chunk's own tokens; needed where `profile.needs_tokens`.
        profile: statistics of the model; without one the chunk carries its own.
        level: name; the profile's default when None.
        rope: without a profile, how keys are rotated; unknown when None: they stay rotated.
        threads: worker threads of the entropy coder.

    Raises:
        ValueError: an unknown level; tokens that are needed and missing, or another number of
            them than the cache has; a profile that holds only what readers need.
        ProfileMismatch: a profile of another geometry.
    """
    chosen = resolve_level(profile, level)
    if profile is not None and profile.geometry != kv.geometry:
        raise ProfileMismatch(
            f"the profile is for {profile.geometry}, the cache is {kv.geometry}; "
            "calibrate a profile for this model"
        )
    _check_number(tokens, kv.num_tokens)
    kv = kv.to("cpu")
    if kv.dtype in _EIGHT_BIT_DTYPES and chosen.codec != "raw":
        chosen = replace(chosen, codec="lossless")
    try:
        if chosen.codec == "transform":
            return _encode_within_bound(kv, _needed(tokens), chosen, profile, threads)
        known = profile.rope if profile else rope or RopeMap.none(2 * kv.num_layers)
        return _encode(kv, chosen, profile, known, threads)
    except Unrepresentable:
        return _encode(kv, replace(chosen, codec="lossless"), None, RopeMap.none(0), threads)


def decode_chunk(
    chunk: EncodedChunk,
    *,
    profile: Profile | None = None,
    tokens: Sequence[int] | np.ndarray | None = None,
    threads: int = 2,
    out: KVCache | None = None,
) -> KVCache:
    """The cache of a chunk.

    Args:
        chunk: from `encode_chunk`, or from bytes.
        profile: the one it was coded with; chunks that carry their own statistics need none.
        tokens: the chunk's own tokens, which `transform` needs.
        threads: worker threads.
        out: a cache on the CPU to fill and return, in place of a new one; after an error it holds
            anything.

    Raises:
        ValueError: tokens are needed and missing; ``out`` is of another shape.
        BitstreamError: arrays that do not fit together or do not decode.
        ProfileMismatch: the chunk needs another profile than the one given.
        TokensMismatch: the chunk was coded for other tokens.
    """
    check_profile(chunk, profile)
    if out is not None:
        _check_room(out, chunk)
    if chunk.codec == "transform":
        rung = _rung_of(chunk, profile)
        return _copied(transform.decode(chunk, _needed(tokens), rung, threads=threads), out)
    if chunk.codec == "paper":
        return _copied(paper.decode(chunk, _model_of(chunk, profile), threads=threads), out)
    if out is None:
        planes = matrix.empty_planes(chunk.geometry, chunk.tokens_held)
        out = KVCache(tuple(planes[::2]), tuple(planes[1::2]), chunk.num_tokens, chunk.start)
    _fill(list(out.planes()), chunk, profile, threads)
    return out


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
    expected = geometry_of_layers(profile.geometry, named_layers(chunk))
    if expected != chunk.geometry:
        raise ProfileMismatch(f"the chunk is {chunk.geometry}, its profile is for {expected}")
    check_model(profile, chunk.fingerprint)


def check_model(profile: Profile, fingerprint: bytes) -> None:
    """Refuse a profile of another model, where both are known.

    Raises:
        ProfileMismatch: they differ.
    """
    if UNKNOWN not in (profile.fingerprint, fingerprint) and profile.fingerprint != fingerprint:
        raise ProfileMismatch(
            f"the profile is for model {profile.fingerprint.hex()}, the cache is of model "
            f"{fingerprint.hex()}; calibrate a profile for this model"
        )


def _check_number(tokens: Sequence[int] | np.ndarray | None, num_tokens: int) -> None:
    if tokens is not None and len(tokens) != num_tokens:
        raise ValueError(f"expected the {num_tokens} tokens of the cache, got {len(tokens)}")


def _fill(planes: Planes, chunk: EncodedChunk, profile: Profile | None, threads: int) -> None:
    if chunk.codec == "raw":
        fixed.decode_raw(chunk, planes)
    elif chunk.codec == "packed":
        fixed.decode_packed(chunk, planes)
    elif chunk.codec == "lossless":
        lossless.decode(chunk, planes, threads=threads)
    elif chunk.codec == "adaptive":
        adaptive.decode(chunk, planes, threads=threads)
    else:
        plain.decode(chunk, planes, _model_of(chunk, profile), threads=threads)


def _check_room(out: KVCache, chunk: EncodedChunk) -> None:
    found = (out.geometry, matrix.tokens_held(out), out.start, out.device.type)
    if found != (chunk.geometry, chunk.tokens_held, chunk.start, "cpu"):
        raise ValueError(
            f"expected an `out` on the CPU for tokens {chunk.start} to "
            f"{chunk.start + chunk.num_tokens} of {chunk.geometry}; got one on {out.device} for "
            f"{out.start} to {out.stop} of {out.geometry}"
        )


def _copied(kv: KVCache, out: KVCache | None) -> KVCache:
    if out is None:
        return kv
    for plane, decoded in zip(out.planes(), kv.planes(), strict=True):
        plane.copy_(decoded)
    return out


def _needed(tokens: Sequence[int] | np.ndarray | None) -> Sequence[int] | np.ndarray:
    if tokens is None:
        raise ValueError("this profile predicts from the text: pass the chunk's `tokens`")
    return tokens


def _encode_within_bound(
    kv: KVCache,
    tokens: Sequence[int] | np.ndarray,
    level: EncodingLevel,
    profile: Profile | None,
    threads: int,
) -> EncodedChunk:
    """At the level, or the next finer one, that keeps the level's bound; else without the profile.

    Raises:
        Unrepresentable: NaN or infinities, or nothing lossy keeps the bound.
    """
    assert profile is not None and profile.transform is not None
    profile.check_encodes()
    if not kv.is_complete:
        return _encode_alone(kv, level, profile.rope, threads)
    analysed = analyse(kv, tokens, profile.transform, profile.rope)
    distrust = _distrust(analysed, profile)
    for rung in range(profile.levels.index(level), len(profile.levels)):
        numbers = profile.rung(rung)
        quantised = numbers.quantiser.quantise(analysed)
        cost = distrust * quantised.distortion
        if cost <= level.bound:
            measured = np.array([cost, level.bound], dtype=np.float32)
            arrays = analysed.sinks | {
                "tokens_digest": transform.tokens_digest(tokens),
                "rung": np.array([rung], dtype=np.uint8),
                "distortion": measured,
            }
            if quantised.multipliers is not None:
                arrays["multipliers"] = quantised.multipliers
            blocks = transform.encode_blocks(quantised, numbers, threads=threads)
            chunk = replace(_blank(kv, level), profile_hash=profile.hash)
            return replace(chunk, blocks=blocks, arrays=arrays)
    alone = _encode_alone(kv, level, profile.rope, threads)
    decoded = analyse(decode_chunk(alone), tokens, profile.transform, profile.rope)
    if distance(analysed, decoded) > level.bound:
        raise Unrepresentable
    return alone


def _distrust(analysed: Analysed, profile: Profile) -> float:
    """By how much a chunk may cost more than the metric says: 1 within what was learned from.

    A metric learned on other text errs; how much, was found to grow with the
    out-of-distribution score.
    """
    assert profile.transform is not None
    found = ood_score(analysed, num_active=nominal_active(profile.num_active[-1]))
    return max(1.0, found / profile.transform.ood_score)


def _encode_alone(kv: KVCache, level: EncodingLevel, rope: RopeMap, threads: int) -> EncodedChunk:
    """Without the profile, at the finest step, for a cache unlike those the profile knows."""
    finest = replace(UNCALIBRATED_LADDER[-1], name=level.name)
    return _encode(kv, finest, None, rope, threads)


def _rung_of(chunk: EncodedChunk, profile: Profile | None) -> transform.TransformLevel:
    if chunk.profile_hash == NO_PROFILE:
        raise BitstreamError("a chunk of `transform` must name its profile", field="profile_hash")
    assert profile is not None
    _check_codec(chunk, profile)
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


def _check_codec(chunk: EncodedChunk, profile: Profile) -> None:
    if profile.codec != chunk.codec:
        raise ProfileMismatch(
            f"the chunk was coded by {chunk.codec!r}, its profile is for {profile.codec!r}"
        )


def _blank(kv: KVCache, level: EncodingLevel) -> EncodedChunk:
    return EncodedChunk(
        level=level.name,
        codec=level.codec,
        geometry=kv.geometry,
        start=kv.start,
        num_tokens=kv.num_tokens,
        tokens_held=matrix.tokens_held(kv),
    )


def _encode(
    kv: KVCache, level: EncodingLevel, profile: Profile | None, rope: RopeMap, threads: int
) -> EncodedChunk:
    chunk = _blank(kv, level)
    if level.codec == "raw":
        return replace(chunk, arrays=fixed.encode_raw(kv))
    if level.codec == "packed":
        return replace(chunk, arrays=fixed.encode_packed(kv))
    if level.codec == "lossless":
        blocks, arrays = lossless.encode(kv, threads=threads)
        return replace(chunk, blocks=blocks, arrays=arrays)
    if level.codec == "adaptive":
        blocks, arrays = adaptive.encode(kv, rope, level.step, threads=threads)
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
    _check_codec(chunk, profile)
    if chunk.level not in [level.name for level in profile.levels]:
        raise BitstreamError(f"the profile has no level {chunk.level!r}", field="level")
    return profile.model(chunk.level)
