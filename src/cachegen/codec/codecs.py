"""The codecs, in one table: how each encodes and decodes a chunk, and what it needs for that.

Nothing else asks a codec by its name what it is. How to add one is told in CONTRIBUTING.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cachegen.codec import fixed, lossless, matrix, memory, paper, plain
from cachegen.codec.adaptive import coding as adaptive
from cachegen.codec.encoded import EncodedChunk, blank_chunk
from cachegen.codec.levels import EncodingLevel, uncalibrated
from cachegen.codec.matrix import Planes
from cachegen.codec.model import CodingModel, model_from_arrays, model_to_arrays
from cachegen.codec.profile import NO_PROFILE, Profile
from cachegen.codec.rope import RopeMap
from cachegen.codec.symbols import Unrepresentable
from cachegen.codec.transform import chunks, synthesis
from cachegen.codec.transform import rung as rungs
from cachegen.codec.transform.analysis import analyse, distance
from cachegen.codec.transform.layers import rung_of
from cachegen.errors import BitstreamError, ProfileMismatch
from cachegen.kvcache import KVCache

Tokens = Sequence[int] | np.ndarray

# What `adaptive` may lose by a profile's measure, in bounds of the level. Its errors lie in all
# directions alike, and cost less than that says on text that the profile does not know: source
# code measures up to 6.6 bounds where KL is a third of one. Caches that are no model's measure
# far more (docs/decisions/2026-11-30-unlike-text.md). Arbitrary: 7 to 1,000 do.
_MOST_BOUNDS = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class EncodeRequest:
    """What a cache is encoded with.

    Attributes:
        level: its step, and its bound where the codec keeps one.
        profile: statistics of the model; None where the chunk has to carry its own.
        rope: rotations to take off keys.
        tokens: the chunk's own; None where nobody gave them.
        threads: worker threads of the entropy coder.
    """

    level: EncodingLevel
    profile: Profile | None
    rope: RopeMap
    tokens: Tokens | None = None
    threads: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRequest:
    """What a chunk is decoded with.

    Attributes:
        profile: that it was coded with; None where it carries its own statistics.
        tokens: the chunk's own; None where nobody gave them.
        threads: worker threads; two decode 1.8 times as fast as one (docs/LOG.md, 2026-11-21).
        out: a cache of the chunk's shape on the CPU to fill; None for a new one.
    """

    profile: Profile | None = None
    tokens: Tokens | None = None
    threads: int = 2
    out: KVCache | None = None


@dataclass(frozen=True, slots=True)
class Codec:
    """A way of coding chunks.

    Attributes:
        name: as levels and chunks say it.
        encode: the chunk of a cache. Raises `Unrepresentable` where it cannot hold the values.
        decode: the cache of a chunk. Raises `BitstreamError` where arrays do not fit or decode.
        working_bytes: at most so much memory decoding takes beside planes and the chunk itself.
        needs_tokens: whether decoding takes the chunk's own tokens.
    """

    name: str
    encode: Callable[[KVCache, EncodeRequest], EncodedChunk]
    decode: Callable[[EncodedChunk, DecodeRequest], KVCache]
    working_bytes: Callable[[EncodedChunk, DecodeRequest], int]
    needs_tokens: bool = False


def codec_of(name: str) -> Codec:
    """The codec of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    found = next((codec for codec in CODECS if codec.name == name), None)
    if found is None:
        raise ValueError(f"expected one of the codecs {', '.join(names())}; got {name!r}")
    return found


def names() -> tuple[str, ...]:
    """Of all codecs; a chunk's header holds the place in this list (FORMAT.md, section 3)."""
    return tuple(codec.name for codec in CODECS)


def _filling(
    fill: Callable[[EncodedChunk, DecodeRequest, Planes], None],
) -> Callable[[EncodedChunk, DecodeRequest], KVCache]:
    """Decoding by a function that fills planes which are there."""

    def decode(chunk: EncodedChunk, request: DecodeRequest) -> KVCache:
        out = request.out
        if out is None:
            planes = matrix.empty_planes(chunk.geometry, chunk.tokens_held)
            out = KVCache(tuple(planes[::2]), tuple(planes[1::2]), chunk.num_tokens, chunk.start)
        fill(chunk, request, list(out.planes()))
        return out

    return decode


def _copying(
    make: Callable[[EncodedChunk, DecodeRequest], KVCache],
) -> Callable[[EncodedChunk, DecodeRequest], KVCache]:
    """Decoding by a function that makes planes of its own."""

    def decode(chunk: EncodedChunk, request: DecodeRequest) -> KVCache:
        made, out = make(chunk, request), request.out
        if out is None:
            return made
        for plane, decoded in zip(out.planes(), made.planes(), strict=True):
            plane.copy_(decoded)
        return out

    return decode


def _encode_raw(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    return replace(blank_chunk(kv, request.level), arrays=fixed.encode_raw(kv))


def _encode_packed(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    return replace(blank_chunk(kv, request.level), arrays=fixed.encode_packed(kv))


def _encode_lossless(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    blocks, arrays = lossless.encode(kv, threads=request.threads)
    return replace(blank_chunk(kv, request.level), blocks=blocks, arrays=arrays)


def _encode_adaptive(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    step, threads = request.level.step, request.threads
    blocks, arrays = adaptive.encode(kv, request.rope, step, threads=threads)
    return replace(blank_chunk(kv, request.level), blocks=blocks, arrays=arrays)


def _encode_plain(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    level, profile = request.level, request.profile
    model = profile.model(level.name) if profile else plain.fit(kv, request.rope, level.step)
    blocks, arrays = plain.encode(kv, model, threads=request.threads)
    chunk = replace(blank_chunk(kv, level), blocks=blocks, arrays=arrays)
    if profile is None:
        return replace(chunk, arrays=arrays | model_to_arrays(model))
    return replace(chunk, profile_hash=profile.hash)


def _encode_paper(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    assert request.profile is not None
    model = request.profile.model(request.level.name)
    blocks, arrays = paper.encode(kv, model, threads=request.threads)
    chunk = replace(blank_chunk(kv, request.level), blocks=blocks, arrays=arrays)
    return replace(chunk, profile_hash=request.profile.hash)


def _encode_transform(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    """At the level, or a finer one, that keeps the level's bound; else without the profile."""
    tokens, profile, level = _needed(request.tokens), request.profile, request.level
    assert profile is not None and profile.transform is not None
    profile.check_encodes()
    if not kv.is_complete:
        return _encode_alone(kv, request)
    analysed = analyse(kv, tokens, profile.transform, profile.rope)
    chunk = chunks.encode(kv, tokens, analysed, level, profile, threads=request.threads)
    if chunk is not None:
        return chunk
    chunk = _encode_alone(kv, request)
    decoded = codec_of(chunk.codec).decode(chunk, DecodeRequest(threads=request.threads))
    again = analyse(decoded, tokens, profile.transform, profile.rope)
    if distance(analysed, again) > _MOST_BOUNDS * level.bound:
        raise Unrepresentable
    return chunk


def _encode_alone(kv: KVCache, request: EncodeRequest) -> EncodedChunk:
    """As without the profile, at the level of this name: a cache unlike those the profile knows."""
    alone = replace(uncalibrated(request.level.name), name=request.level.name)
    return codec_of(alone.codec).encode(kv, replace(request, level=alone, profile=None))


def _decode_transform(chunk: EncodedChunk, request: DecodeRequest) -> KVCache:
    if chunk.profile_hash == NO_PROFILE:
        raise BitstreamError("a chunk of `transform` must name its profile", field="profile_hash")
    rung = rung_of(chunk, _profile_of(chunk, request.profile))
    return rungs.decode(chunk, _needed(request.tokens), rung, threads=request.threads)


def _transform_bytes(chunk: EncodedChunk, request: DecodeRequest) -> int:
    """What `rungs.decode` takes, and planes of its own where there are some to fill."""
    profile = request.profile
    if profile is None or profile.transform is None:
        return 0  # refused before anything is decoded
    again = 0 if request.out is None else memory.planes_bytes(chunk)
    active, tables = profile.num_active, len(profile.frequencies)
    return again + synthesis.working_bytes(
        chunk, profile.transform, active, tables=tables, threads=request.threads
    )


def _num_tables(profile: Profile | None) -> int:
    return 0 if profile is None else len(profile.frequencies)


def _needed(tokens: Tokens | None) -> Tokens:
    if tokens is None:
        raise ValueError("this profile predicts from the text: pass the chunk's `tokens`")
    return tokens


def _model_of(chunk: EncodedChunk, profile: Profile | None) -> CodingModel:
    """The statistics that a chunk of `plain` or `paper` was coded with."""
    if chunk.profile_hash == NO_PROFILE:
        return model_from_arrays(chunk.arrays, chunk.geometry, codec=chunk.codec)
    known = _profile_of(chunk, profile)
    if chunk.level not in [level.name for level in known.levels]:
        raise BitstreamError(f"the profile has no level {chunk.level!r}", field="level")
    return known.model(chunk.level)


def _profile_of(chunk: EncodedChunk, profile: Profile | None) -> Profile:
    """The profile that a chunk names, which must be for its codec."""
    assert profile is not None
    if profile.codec != chunk.codec:
        raise ProfileMismatch(
            f"the chunk was coded by {chunk.codec!r}, its profile is for {profile.codec!r}"
        )
    return profile


# In the order of their numbers in the headers of chunks: new ones come last.
CODECS = [
    Codec(
        "raw",
        _encode_raw,
        _filling(lambda chunk, _, out: fixed.decode_raw(chunk, out)),
        lambda chunk, given: 0,
    ),
    Codec(
        "packed",
        _encode_packed,
        _filling(lambda chunk, _, out: fixed.decode_packed(chunk, out)),
        lambda chunk, given: memory.of_packed(chunk),
    ),
    Codec(
        "lossless",
        _encode_lossless,
        _filling(lambda chunk, given, out: lossless.decode(chunk, out, threads=given.threads)),
        lambda chunk, given: memory.of_lossless(chunk),
    ),
    Codec(
        "plain",
        _encode_plain,
        _filling(
            lambda chunk, given, out: plain.decode(
                chunk, out, _model_of(chunk, given.profile), threads=given.threads
            )
        ),
        lambda chunk, given: memory.of_plain(
            chunk, tables=_num_tables(given.profile), threads=given.threads
        ),
    ),
    Codec(
        "paper",
        _encode_paper,
        _filling(
            lambda chunk, given, out: paper.decode(
                chunk, out, _model_of(chunk, given.profile), threads=given.threads
            )
        ),
        lambda chunk, given: memory.of_paper(
            chunk, tables=_num_tables(given.profile), threads=given.threads
        ),
    ),
    Codec(
        "transform",
        _encode_transform,
        _copying(_decode_transform),
        _transform_bytes,
        needs_tokens=True,
    ),
    Codec(
        "adaptive",
        _encode_adaptive,
        _filling(lambda chunk, given, out: adaptive.decode(chunk, out, threads=given.threads)),
        lambda chunk, given: memory.of_adaptive(chunk, threads=given.threads),
    ),
]
