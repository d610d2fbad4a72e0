"""Contexts to simulate, from manifests of stored ones."""

from __future__ import annotations

from cachegen.bitstream.manifest import Manifest
from cachegen.codec.levels import LOSSLESS
from cachegen.codec.profile import Profile
from cachegen.contexts.needs import options_of, rank_of
from cachegen.simulation.scenario import Chunk, Context


def context_from(
    manifest: Manifest, *, profile: Profile | None = None, default_level: str | None = None
) -> Context:
    """The context that a manifest describes, with levels ranked by a profile.

    Args:
        manifest: of the context.
        profile: the profile of its levels; the ladder without a profile if None.
        default_level: the default level; if None the profile's, or `lossless` without one.

    Raises:
        ValueError: the default level is unknown.
    """
    if default_level is None:
        default_level = profile.default_level if profile is not None else LOSSLESS
    default_rank = rank_of(default_level, profile)
    if default_rank < 0:
        raise ValueError(f"expected a level of the ladder as default, got {default_level!r}")
    chunks = (Chunk(c.start, c.stop, options_of(c, profile)) for c in manifest.chunks)
    return Context(tuple(chunks), default_rank)
