"""`encode`, `decode` and `describe`: a KV cache to the bytes of one chunk, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cachegen.bitstream.arrays import ArrayEntry
from cachegen.bitstream.format import MAX_BYTES, UNLIMITED, Buffer, pack, unpack
from cachegen.bitstream.header import read_header
from cachegen.bitstream.identity import Tokens, tokens_from_bytes, tokens_to_bytes
from cachegen.codec.codec import UNKNOWN, check_model, decode_chunk, encode_chunk
from cachegen.codec.encoded import EncodedChunk, Layers
from cachegen.codec.kinds import encode_kinds as kinds_of
from cachegen.codec.memory import MAX_DECODING_BYTES
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.errors import BitstreamError, ProfileMismatch
from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True, eq=False)
class ChunkInfo:
    """The contents of a chunk's header, and its sizes.

    Attributes:
        chunk: who it belongs to, how it was coded, its blocks and arrays.
        entries: the array table, with the size of every array.
        header_bytes: size of the header.
        size_bytes: size of the chunk.
    """

    chunk: EncodedChunk
    entries: tuple[ArrayEntry, ...]
    header_bytes: int
    size_bytes: int


def encode(
    kv: KVCache,
    *,
    tokens: Tokens | None = None,
    profile: Profile | None = None,
    level: str | None = None,
    rope: RopeMap | None = None,
    fingerprint: bytes = UNKNOWN,
    chunk_id: bytes = UNKNOWN,
    threads: int = 2,
) -> bytes:
    """The bytes of a KV cache at a level.

    Args:
        kv: keys and values of the chunk.
        tokens: the chunk's own tokens; profiles of the transform codec predict from them.
        profile: statistics of the model; without one the chunk carries its own and is larger.
        level: name of the level; the default one when None.
        rope: without a profile, how keys are rotated; unknown when None.
        fingerprint: SHA-256 that identifies the model.
        chunk_id: identity of the tokens up to the chunk's end.
        threads: worker threads; two decode 1.8 times as fast as one (docs/LOG.md, 2026-11-21).

    Raises:
        ValueError: an unknown level, a cache that the format cannot hold, tokens that are not
            the cache's, or none where the profile needs them.
        ProfileMismatch: a profile of another model or geometry.
    """
    ids = _token_ids(tokens)
    if profile is not None:
        check_model(profile, fingerprint)
    chunk = encode_chunk(kv, tokens=ids, profile=profile, level=level, rope=rope, threads=threads)
    return pack(replace(chunk, fingerprint=fingerprint, chunk_id=chunk_id))


def encode_kinds(
    kv: KVCache,
    kinds: Sequence[Layers],
    *,
    tokens: Tokens | None = None,
    profile: Profile | None = None,
    level: str,
    rope: RopeMap | None = None,
    fingerprint: bytes = UNKNOWN,
    chunk_id: bytes = UNKNOWN,
) -> tuple[bytes, ...]:
    """The bytes of each kind of layers of a KV cache, at a level that can be split.

    Args:
        kinds: ascending layers of each.
        kv, tokens, profile, level, rope, fingerprint, chunk_id: as for `encode`, of all layers.
    """
    ids = _token_ids(tokens)
    if profile is not None:
        check_model(profile, fingerprint)
    chunks = kinds_of(kv, kinds, tokens=ids, profile=profile, level=level, rope=rope)
    return tuple(pack(replace(c, fingerprint=fingerprint, chunk_id=chunk_id)) for c in chunks)


def decode(
    data: Buffer,
    *,
    profile: Profile | None = None,
    tokens: Tokens | None = None,
    fingerprint: bytes | None = None,
    device: torch.device | str = "cpu",
    max_bytes: int | None = None,
    threads: int = 2,
) -> KVCache:
    """The KV cache in the bytes of a chunk.

    Args:
        data: one whole chunk.
        profile: the one it was coded with; chunks that carry their own statistics need none.
        tokens: the chunk's own tokens; their number is checked, and chunks of the transform
            codec need them.
        fingerprint: the model it should belong to; checked where the chunk names one.
        device: where the planes are to live.
        max_bytes: refuse chunks whose planes, with all that decoding takes beside them and `data`,
            would take more than this; 2 GiB of planes and 5 GiB in all where it is None.
        threads: worker threads; two decode 1.8 times as fast as one (docs/LOG.md, 2026-11-21).

    Raises:
        BitstreamError: anything but an undamaged chunk of this version.
        ProfileMismatch: a chunk of another model, or coded with another profile.
        TokensMismatch: a chunk that was coded for other tokens.
        ValueError: a chunk that cannot be decoded without its tokens.
    """
    chunk = unpack(data, max_bytes=MAX_BYTES if max_bytes is None else max_bytes)
    _check_model(chunk, fingerprint)
    ids = _token_ids(tokens)
    if ids is not None and len(ids) != chunk.num_tokens:
        raise BitstreamError(
            f"expected a chunk of {len(ids)} tokens, got {chunk.num_tokens}", field="num_tokens"
        )
    most = MAX_DECODING_BYTES if max_bytes is None else max_bytes
    kv = decode_chunk(chunk, profile=profile, tokens=ids, threads=threads, max_bytes=most)
    return kv.to(device)


def describe(data: Buffer) -> ChunkInfo:
    """What a chunk says about itself, its checksums verified; nothing is decoded.

    Raises:
        BitstreamError: anything but an undamaged chunk of this version.
    """
    chunk = unpack(data, max_bytes=UNLIMITED)
    header, header_bytes = read_header(memoryview(data).cast("B"))
    return ChunkInfo(chunk, header.arrays, header_bytes, memoryview(data).nbytes)


def _token_ids(tokens: Tokens | None) -> NDArray[np.uint32] | None:
    return None if tokens is None else tokens_from_bytes(tokens_to_bytes(tokens))


def _check_model(chunk: EncodedChunk, fingerprint: bytes | None) -> None:
    if fingerprint is None or UNKNOWN in (fingerprint, chunk.fingerprint):
        return
    if chunk.fingerprint != fingerprint:
        raise ProfileMismatch(
            f"the chunk belongs to model {chunk.fingerprint.hex()}, "
            f"expected model {fingerprint.hex()}"
        )
