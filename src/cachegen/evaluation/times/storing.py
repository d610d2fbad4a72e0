"""A context stored as the times of loads want it: at every level of ours, at 8 bits, and raw."""

from __future__ import annotations

from typing import Any

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.levels import PACKED, RAW, UNCALIBRATED_DEFAULT
from cachegen.codec.profile import Profile
from cachegen.contexts.save import save
from cachegen.engines.transformers import fingerprint, rope_map
from cachegen.evaluation.coder import Tokens
from cachegen.kvcache import KVCache
from cachegen.store import Store

# Tokens of chunks, so that a context of 1,536 has several to choose for.
CHUNK_TOKENS = 512


def default_level(profile: Profile | None) -> str:
    """The default level of a profile, or that without one."""
    return profile.default_level if profile else UNCALIBRATED_DEFAULT


def stored_levels(profile: Profile | None) -> list[str]:
    """The ladder of a profile, or the default level without one; 8 bits; raw."""
    ladder = [level.name for level in profile.levels] if profile else []
    return list(dict.fromkeys((*ladder, default_level(profile), PACKED, RAW)))


def store_context(
    kv: KVCache,
    *,
    model: Any,
    tokens: Tokens,
    profile: Profile | None,
    store: Store,
    salt: bytes = b"",
) -> Manifest:
    """Store the cache of a context at all of these levels."""
    return save(
        kv,
        tokens=tokens,
        store=store,
        profile=profile,
        rope=None if profile else rope_map(model),
        levels=stored_levels(profile),
        chunk_tokens=CHUNK_TOKENS,
        fingerprint=fingerprint(model),
        salt=salt,
    )
