"""What a store has of the tokens asked for, and at which levels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cachegen.bitstream.manifest import ChunkEntry
from cachegen.codec.profile import Profile
from cachegen.store import Store
from cachegen.stream.controller import ChunkState
from cachegen.stream.discovery import find_prefix
from cachegen.stream.lineage import Lineage
from cachegen.stream.preference import choose_level, options_of, rank_of
from cachegen.stream.profiles import Profiles
from cachegen.stream.result import LoadedChunk


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A stored prefix, before anything of it is loaded.

    Attributes:
        chunks: as controllers see them; the last one may end inside its entry.
        entries: the same as the manifest names them; none where nothing can be fetched.
        default_rank: rank of the level that is good enough.
        exact: whether the KV was computed without lossily loaded KV before it.
        lost: ranges behind it whose manifests are there but of no use.
    """

    chunks: tuple[ChunkState, ...]
    entries: tuple[ChunkEntry, ...]
    default_rank: int
    exact: bool
    lost: tuple[LoadedChunk, ...]

    @classmethod
    def nothing(cls, num_tokens: int) -> Found:
        """Tokens of which no store can be asked."""
        chunks = (ChunkState(0, num_tokens, ()),) if num_tokens else ()
        return cls(chunks, (), 0, True, ())

    @property
    def num_tokens(self) -> int:
        """How many tokens it covers."""
        return self.chunks[-1].stop if self.chunks else 0


def look_up(
    tokens: NDArray[np.uint32],
    lineage: Lineage,
    *,
    store: Store,
    profiles: Profiles,
    level: str | None,
) -> Found:
    """The longest stored prefix, of this lineage or, where it is not exact, of an exact one.

    Raises:
        ValueError: a level that nothing is stored at.
        StoreError: the store fails.
    """
    prefix = find_prefix(tokens, store=store, lineages=_accepted(lineage))
    manifest = prefix.manifest
    if manifest is None:
        return Found((), (), 0, True, prefix.lost)
    ladder = profiles.main(manifest)
    return Found(
        chunks=tuple(_state(chunk, ladder, manifest.num_tokens) for chunk in manifest.chunks),
        entries=manifest.chunks,
        default_rank=rank_of(choose_level(manifest, ladder, level), ladder),
        exact=manifest.exact,
        lost=prefix.lost,
    )


def _accepted(lineage: Lineage) -> list[Lineage]:
    """Better ones first."""
    exactness = (True,) if lineage.exact else (True, False)
    return [
        Lineage(
            lineage.fingerprint, lineage.salt, lineage.extra, exact=is_exact, complete=is_complete
        )
        for is_exact, is_complete in product(exactness, (True, False))
    ]


def _state(chunk: ChunkEntry, ladder: Profile | None, num_tokens: int) -> ChunkState:
    return ChunkState(chunk.start, min(chunk.stop, num_tokens), options_of(chunk, ladder))
