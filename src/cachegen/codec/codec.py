"""A KV cache to a coded chunk and back: picks the codec that the level asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from cachegen.codec import matrix
from cachegen.codec.codecs import DecodeRequest, EncodeRequest, codec_of
from cachegen.codec.encoded import EncodedChunk, geometry_of_layers, named_layers
from cachegen.codec.levels import (
    EXACT_LEVELS,
    LOSSLESS,
    SELF_CONTAINED,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
    EncodingLevel,
    find_level,
)
from cachegen.codec.memory import MAX_DECODING_BYTES, check_memory
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import Unrepresentable
from cachegen.errors import ProfileMismatch
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
    its bound, gives way to a finer one, to `adaptive` (as without a profile, at the level of this
    name) or to `lossless`; the chunk's `codec` tells.

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
    if kv.dtype in _EIGHT_BIT_DTYPES and chosen.name not in EXACT_LEVELS:
        chosen = replace(chosen, codec=LOSSLESS)
    known = profile.rope if profile else rope or RopeMap.none(2 * kv.num_layers)
    request = EncodeRequest(chosen, profile, known, tokens, threads)
    try:
        return codec_of(chosen.codec).encode(kv, request)
    except Unrepresentable:
        exact = replace(request, level=replace(chosen, codec=LOSSLESS), profile=None)
        return codec_of(LOSSLESS).encode(kv, exact)


def decode_chunk(
    chunk: EncodedChunk,
    *,
    profile: Profile | None = None,
    tokens: Sequence[int] | np.ndarray | None = None,
    threads: int = 2,
    out: KVCache | None = None,
    max_bytes: int = MAX_DECODING_BYTES,
) -> KVCache:
    """The cache of a chunk.

    Args:
        chunk: from `encode_chunk`, or from bytes.
        profile: the one it was coded with; chunks that carry their own statistics need none.
        tokens: the chunk's own tokens, which `transform` needs.
        threads: worker threads; two decode 1.8 times as fast as one (docs/LOG.md, 2026-11-21).
        out: a cache on the CPU to fill and return, in place of a new one; after an error it holds
            anything.
        max_bytes: refuse chunks whose planes, with all that decoding takes beside them and the
            chunk's own bytes, would take more than this.

    Raises:
        ValueError: tokens are needed and missing; ``out`` is of another shape.
        BitstreamError: arrays that do not fit together or do not decode; too much memory.
        ProfileMismatch: the chunk needs another profile than the one given.
        TokensMismatch: the chunk was coded for other tokens.
    """
    check_profile(chunk, profile)
    if out is not None:
        _check_room(out, chunk)
    request, codec = DecodeRequest(profile, tokens, threads, out), codec_of(chunk.codec)
    check_memory(chunk, codec.working_bytes(chunk, request), max_bytes)
    return codec.decode(chunk, request)


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


def _check_room(out: KVCache, chunk: EncodedChunk) -> None:
    found = (out.geometry, matrix.tokens_held(out), out.start, out.device.type)
    if found != (chunk.geometry, chunk.tokens_held, chunk.start, "cpu"):
        raise ValueError(
            f"expected an `out` on the CPU for tokens {chunk.start} to "
            f"{chunk.start + chunk.num_tokens} of {chunk.geometry}; got one on {out.device} for "
            f"{out.start} to {out.stop} of {out.geometry}"
        )
