"""The levels of a stored context, in the order of their quality."""

from __future__ import annotations

from cachegen.bitstream.manifest import ChunkEntry, Manifest
from cachegen.codec.levels import (
    LADDER,
    SELF_CONTAINED,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
    find_level,
)
from cachegen.codec.profile import Profile
from cachegen.policy.controller import Option


def choose_level(manifest: Manifest, profile: Profile | None, level: str | None) -> str:
    """The level to request of every chunk: the given one, else the profile's default.

    A name of the ladder that the profile left out stands for the next coarser one.

    Raises:
        ValueError: no chunk is stored at the level; the message names the stored ones.
    """
    if level is None:
        return profile.default_level if profile is not None else UNCALIBRATED_DEFAULT
    present = {stored.level for chunk in manifest.chunks for stored in chunk.objects}
    if level not in present and profile is not None and level in LADDER:
        level = find_level(profile.levels + SELF_CONTAINED, level).name
    if level not in present:
        names = ", ".join(sorted(present, key=lambda name: rank_of(name, profile)))
        raise ValueError(f"this context is stored at the levels {names}; got {level!r}")
    return level


def options_of(chunk: ChunkEntry, profile: Profile | None) -> tuple[Option, ...]:
    """The options of a whole chunk, from the smallest level to the best."""
    sizes: dict[str, int] = {}
    for stored in chunk.objects:
        sizes[stored.level] = sizes.get(stored.level, 0) + stored.size_bytes
    options = (Option(level, size, rank_of(level, profile)) for level, size in sizes.items())
    return tuple(sorted(options, key=lambda option: option.rank))


def rank_of(level: str, profile: Profile | None) -> int:
    """Position of a level from smallest to best; -1 for levels of other profiles."""
    ladder = profile.levels if profile is not None else UNCALIBRATED_LADDER
    names = [known.name for known in ladder + SELF_CONTAINED]
    return names.index(level) if level in names else -1
