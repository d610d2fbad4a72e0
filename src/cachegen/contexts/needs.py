"""Which levels a chunk can be fetched at, and which layers of it a load needs and has.

If layers are stored by kind, those with windows are needed only before the positions from which
tokens are computed: by the reader at the end, and by the model at each recomputed chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cachegen.bitstream.manifest import (
    ALL,
    FULL,
    ChunkEntry,
    Manifest,
    StoredObject,
    kind_of,
    layers_by_kind,
    tokens_before,
)
from cachegen.codec.levels import (
    LADDER,
    SELF_CONTAINED,
    UNCALIBRATED_DEFAULT,
    UNCALIBRATED_LADDER,
    find_level,
)
from cachegen.codec.profile import Profile
from cachegen.policy.controller import ChunkState, Option

Cut = Callable[[int], int]


class Needs:
    """The needs of one load; only its deciding thread changes them."""

    def __init__(
        self,
        chunks: Sequence[ChunkState],
        entries: Sequence[ChunkEntry],
        *,
        windows: Sequence[int] = (),
        cut: Cut | None = None,
        complete: bool = False,
    ) -> None:
        """Start with nothing loaded.

        Args:
            chunks: of the load, with all their options.
            entries: the manifest's entries of the chunks; fewer if the last cannot be fetched.
            windows: attention windows of the layers, as in the manifest.
            cut: position at which the reader continues, from the number of loaded tokens; that
                number itself if None.
            complete: every token of every layer is needed.
        """
        self.entries = entries
        self._ranges = [(chunk.start, chunk.stop) for chunk in chunks]
        self._found = [chunk.options for chunk in chunks]
        self._ranks = {(i, o.level): o.rank for i, found in enumerate(self._found) for o in found}
        self._windows = () if complete else tuple(windows)
        self._kinds = tuple(layers_by_kind(windows)) or (ALL,)
        self._cut = cut or (lambda num_tokens: num_tokens)
        self._held: list[set[str]] = [set() for _ in chunks]
        self.end_at(chunks[-1].stop if chunks else 0)
        self._places: set[int] = set()

    def end_at(self, stop: int) -> None:
        """Let the load end at token ``stop``."""
        self._stop = stop
        self._goes_on_at = max(0, min(self._cut(stop), stop)) if stop else 0

    def compute_at(self, place: int) -> None:
        """Note that a model computes from token ``place`` on."""
        self._places.add(place)

    def misses_before(self, place: int) -> bool:
        """Whether a model that computes from token ``place`` on still lacks layers."""
        return any(
            kind not in self._held[index]
            for index, (start, _) in enumerate(self._ranges)
            for kind in self._kinds
            if start < place and self._reaches_to(index, kind, place)
        )

    def missing(self, index: int) -> tuple[str, ...]:
        """The kinds of layers of a chunk that are needed and not loaded."""
        held = self._held[index]
        return tuple(
            kind for kind in self._kinds if kind not in held and self._is_needed(index, kind)
        )

    def objects(self, index: int, level: str) -> tuple[StoredObject, ...]:
        """The objects that hold the missing layers of a chunk at a level."""
        wanted = {ALL, *self.missing(index)}
        return tuple(o for o in self.entries[index].at_level(level) if o.layers in wanted)

    def options(self, index: int) -> tuple[Option, ...]:
        """The options of a chunk, with the sizes of its missing layers, if any."""
        if not self.missing(index):
            return ()
        return tuple(
            replace(option, size_bytes=sum(o.size_bytes for o in self.objects(index, option.level)))
            for option in self._found[index]
        )

    def rank(self, index: int, level: str) -> int:
        """Rank of a level at which a chunk is stored."""
        return self._ranks[index, level]

    def got(self, index: int, layers: str = ALL) -> None:
        """Note that a kind of a chunk's layers is loaded, or all of them."""
        self._held[index].update(self._kinds if layers == ALL else (layers,))

    def cannot_be_had(self, index: int, level: str) -> None:
        """Drop a level of a chunk from its options."""
        kept = (option for option in self._found[index] if option.level != level)
        self._found[index] = tuple(kept)

    def store_is_gone(self) -> None:
        """Drop all options: nothing more can be fetched."""
        self._found = [()] * len(self._found)

    def last_before(self, place: int) -> list[int] | None:
        """Tokens that a model needs of each layer before token ``place``; None for all."""
        if not self._windows:
            return None
        return [tokens_before(kind_of(window), place) for window in self._windows]

    def last_at_end(self) -> list[int] | None:
        """Number of last tokens that the result holds of each layer; None for all."""
        cut = self._goes_on_at
        needed, dropped = self.last_before(cut), self._stop - cut
        if needed is None:
            return None
        return [dropped + tokens for tokens in needed]

    def _is_needed(self, index: int, kind: str) -> bool:
        if not self._windows or kind in (ALL, FULL):
            return True
        start = self._ranges[index][0]
        if self._reaches_to(index, kind, self._goes_on_at):
            return True
        return any(start < place and self._reaches_to(index, kind, place) for place in self._places)

    def _reaches_to(self, index: int, kind: str, place: int) -> bool:
        """Whether computing from token ``place`` on needs this kind of layers of a chunk."""
        return self._ranges[index][1] > place - tokens_before(kind, place)


def begin(needs: Needs, chunks: Sequence[ChunkState], *, can_recompute: bool) -> None:
    """Set the options of all chunks by what is needed of them.

    Chunks without options are noted as computed by the model.
    """
    for chunk in chunks:
        if can_recompute and not chunk.options:
            needs.compute_at(chunk.start)
    for index, chunk in enumerate(chunks):
        chunk.options = needs.options(index)


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
