"""A worker's first chunk, coded and decoded before anybody waits for one.

A process's first chunk loads kernels and makes a profile's tables ready, which would count against
its first load: on a fast link that load did not pay for that reason.
"""

from __future__ import annotations

from contextlib import suppress

import torch

from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.errors import CacheGenError
from cachegen.kvcache import Geometry, KVCache

# As few as there are of the profile's parts to touch. Arbitrary: 16 to 256 do.
_TOKENS = 64


def warm_up(
    geometry: Geometry, *, profile: Profile | None, rope: RopeMap | None, level: str
) -> None:
    """Code and decode a cache of zeros at a level; what goes wrong saves and loads will tell."""
    keys, values = (
        tuple(torch.zeros(one.heads, _TOKENS, one.dim, dtype=geometry.dtype) for one in planes)
        for planes in (geometry.planes[0::2], geometry.planes[1::2])
    )
    kv, tokens = KVCache(keys, values, _TOKENS), [0] * _TOKENS
    with suppress(CacheGenError, ValueError):
        chunk = encode_chunk(kv, tokens=tokens, profile=profile, level=level, rope=rope)
        decode_chunk(chunk, profile=profile, tokens=tokens)
