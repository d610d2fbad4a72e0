"""Plans where a cache is cut, and the levels and keys at which its chunks are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cachegen.bitstream.format import MAX_BYTES
from cachegen.bitstream.identity import LINK_TOKENS, Ids
from cachegen.bitstream.manifest import ALL, ChunkEntry, layers_by_kind, object_key, profile_key
from cachegen.codec.codec import resolve_level
from cachegen.codec.kinds import can_split
from cachegen.codec.levels import EXACT_LEVELS, LOSSLESS, UNCALIBRATED_DEFAULT
from cachegen.codec.profile import CODECS_WITH_PROFILE, NO_PROFILE, Profile
from cachegen.kvcache import KVCache


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """An object to store: a chunk at a level, or one kind of its layers.

    Attributes:
        chunk: the token range.
        level: name of the level.
        profile_hash: the profile that its bytes depend on; 32 zero bytes if there is none.
        layers: the kind of layers that it holds.
    """

    chunk: ChunkEntry
    level: str
    profile_hash: bytes
    layers: str = ALL

    @property
    def key(self) -> str:
        """Its key in the store."""
        return object_key(
            self.chunk.chunk_id,
            start=self.chunk.start,
            stop=self.chunk.stop,
            profile_hash=self.profile_hash,
            level=self.level,
            layers=self.layers,
        )

    @property
    def profile_key(self) -> str | None:
        """The store's key of the profile that its bytes depend on; None without a profile."""
        return None if self.profile_hash == NO_PROFILE else profile_key(self.profile_hash)


def plan_levels(
    profile: Profile | None, names: Sequence[str] | None, *, exact: bool
) -> dict[str, bytes]:
    """The levels to store, each with the hash of the profile it depends on.

    A name of the ladder that the profile left out stands for the next coarser one.

    Raises:
        ValueError: no level, an unknown one, or an exact one for inexact KV; a profile that cannot
            encode.
    """
    if names is None:
        ladder = ladder_stored(profile)
        names = [*ladder, LOSSLESS] if exact else ladder
    if not names:
        raise ValueError("expected at least one level, got none")
    for name in names:
        if not exact and name in EXACT_LEVELS:
            raise ValueError(f"KV that is not exact cannot be stored as {name!r}")
    resolved = (resolve_level(profile, name).name for name in names)
    return {name: _profile_hash(profile, name) for name in resolved}


def ladder_stored(profile: Profile | None) -> list[str]:
    """The lossy levels stored by default, the profile's default level among them."""
    if profile is None:
        return [UNCALIBRATED_DEFAULT]
    names = [level.name for level in profile.levels]
    beside = profile.default_level not in (*names, LOSSLESS)
    return [*names, profile.default_level] if beside else names


def plan_kinds(
    kv: KVCache, profile: Profile | None, names: Iterable[str], windows: Sequence[int]
) -> dict[str, tuple[str, ...]]:
    """For each level, the kinds of layers that are stored as separate objects.

    Raises:
        ValueError: the number of windows is not the number of layers.
    """
    if windows and len(windows) != kv.num_layers:
        raise ValueError(f"expected the windows of {kv.num_layers} layers, got {len(windows)}")
    kinds = layers_by_kind(windows) if any(windows) and kv.is_complete else {}
    apart = tuple(kinds) or (ALL,)
    return {
        name: apart if can_split(profile, name, tuple(kinds.values())) else (ALL,) for name in names
    }


def check_chunk_tokens(chunk_tokens: int) -> None:
    """Check that a chunk length is a positive multiple of 64.

    Raises:
        ValueError: it is not.
    """
    if chunk_tokens <= 0 or chunk_tokens % LINK_TOKENS:
        raise ValueError(
            f"expected chunk_tokens as a multiple of {LINK_TOKENS}, got {chunk_tokens}"
        )


def plan_chunks(kv: KVCache, ids: Ids, *, chunk_tokens: int) -> list[ChunkEntry]:
    """The chunks of a cache, without objects yet; an incomplete cache is one chunk.

    Raises:
        ValueError: a chunk length that is no multiple of 64, or too large to be loaded again.
    """
    check_chunk_tokens(chunk_tokens)
    inner = range(kv.start - kv.start % chunk_tokens + chunk_tokens, kv.stop, chunk_tokens)
    edges = [kv.start, *(inner if kv.is_complete else ()), kv.stop]
    for start, stop in pairwise(edges):
        size_bytes = kv.slice(start - kv.start, stop - kv.start).size_bytes
        if size_bytes > MAX_BYTES:
            raise ValueError(
                f"expected chunks of at most {MAX_BYTES} bytes of cache, got {size_bytes} in "
                f"{stop - start} tokens; use a smaller chunk_tokens"
            )
    return [ChunkEntry(ids.of(stop), start, stop, ()) for start, stop in pairwise(edges)]


def _profile_hash(profile: Profile | None, level: str) -> bytes:
    needs_profile = resolve_level(profile, level).codec in CODECS_WITH_PROFILE
    if profile is None or not needs_profile:
        return NO_PROFILE
    profile.check_encodes()
    return profile.hash
