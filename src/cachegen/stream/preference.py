"""Which of a chunk's levels to load: the one asked for, else the nearest, better ones first."""

from __future__ import annotations

from cachegen.bitstream.manifest import ChunkEntry, Manifest, StoredObject
from cachegen.codec.levels import (
    FIXED_LEVELS,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
)
from cachegen.codec.profile import Profile


def choose_level(manifest: Manifest, profile: Profile | None, level: str | None) -> str:
    """The level to ask every chunk for: this one, or the profile's default.

    Raises:
        ValueError: a level that no chunk is stored at; the message names those there are.
    """
    if level is None:
        return profile.default_level if profile is not None else UNCALIBRATED_DEFAULT
    present = {stored.level for chunk in manifest.chunks for stored in chunk.objects}
    if level not in present:
        names = ", ".join(sorted(present, key=lambda name: _rank(name, profile)))
        raise ValueError(f"this context is stored at the levels {names}; got {level!r}")
    return level


def in_order_of_preference(
    chunk: ChunkEntry, *, level: str, profile: Profile | None
) -> list[StoredObject]:
    """The level itself, then better ones from the nearest up, then smaller ones downwards."""
    asked = _rank(level, profile)

    def distance(stored: StoredObject) -> tuple[bool, int]:
        rank = _rank(stored.level, profile)
        return rank < asked, abs(rank - asked)

    return sorted(chunk.objects, key=distance)


def _rank(level: str, profile: Profile | None) -> int:
    """Position in the order from smallest to best; levels of other profiles come before all."""
    ladder = profile.levels if profile is not None else UNCALIBRATED_LADDER
    names = [known.name for known in ladder + FIXED_LEVELS]
    return names.index(level) if level in names else -1
