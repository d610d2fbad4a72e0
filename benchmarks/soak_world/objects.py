"""Objects whose keys tell their bytes, so that whoever reads one knows whether it is right."""

from __future__ import annotations

import hashlib
import random

# Mostly what a chunk of a small model takes; some go through the server's file of a large upload.
_SIZES = ((1, 40_000, 70), (40_000, 400_000, 25), (1_100_000, 2_000_000, 5))


def draw_size(rng: random.Random) -> int:
    """The size of an object, in bytes."""
    low, high, _ = rng.choices(_SIZES, [weight for *_, weight in _SIZES])[0]
    return rng.randrange(low, high)


def key_of(client: int, number: int, size_bytes: int) -> str:
    """The key of a client's object."""
    return f"raw/{client:02}/{number}-{size_bytes}"


def content_of(tenant: str, key: str) -> bytes:
    """The bytes of a tenant's object; another tenant's under the same key are different."""
    size_bytes = int(key.rpartition("-")[2])
    return hashlib.shake_128(f"{tenant} {key}".encode()).digest(size_bytes)
