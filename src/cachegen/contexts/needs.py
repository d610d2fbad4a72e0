"""What a load needs of each chunk, has of it, and can ask for.

Where layers are stored by kind, those with windows are needed only before the places where somebody
goes on: the reader at the end, and the model at a chunk that it computes anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from cachegen.bitstream.kinds import ALL, FULL, kind_of, layers_by_kind, tokens_before
from cachegen.bitstream.manifest import ChunkEntry, StoredObject
from cachegen.policy.controller import ChunkState, Option

Cut = Callable[[int], int]


class Needs:
    """Of one load; only the thread that decides changes it."""

    def __init__(
        self,
        chunks: Sequence[ChunkState],
        entries: Sequence[ChunkEntry],
        *,
        windows: Sequence[int] = (),
        cut: Cut | None = None,
        complete: bool = False,
    ) -> None:
        """Nothing is there yet.

        Args:
            chunks: of the load, with everything that they can be fetched at.
            entries: the same as the manifest names them; fewer where the last cannot be fetched.
            windows: of the layers, as in the manifest.
            cut: where the reader goes on, by how many tokens are loaded; behind them when None.
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
        """The load ends there."""
        self._stop = stop
        self._goes_on_at = max(0, min(self._cut(stop), stop)) if stop else 0

    def compute_at(self, place: int) -> None:
        """A model is to go on there."""
        self._places.add(place)

    def misses_before(self, place: int) -> bool:
        """Whether something is not there that a model needs to go on there."""
        return any(
            kind not in self._held[index]
            for index, (start, _) in enumerate(self._ranges)
            for kind in self._kinds
            if start < place and self._reaches_to(index, kind, place)
        )

    def missing(self, index: int) -> tuple[str, ...]:
        """The kinds of layers of a chunk that are needed and not there."""
        held = self._held[index]
        return tuple(
            kind for kind in self._kinds if kind not in held and self._is_needed(index, kind)
        )

    def objects(self, index: int, level: str) -> tuple[StoredObject, ...]:
        """What holds that at a level."""
        wanted = {ALL, *self.missing(index)}
        return tuple(o for o in self.entries[index].at_level(level) if o.layers in wanted)

    def options(self, index: int) -> tuple[Option, ...]:
        """What a chunk can be fetched at now, by the bytes of what is missing of it."""
        if not self.missing(index):
            return ()
        return tuple(
            replace(option, size_bytes=sum(o.size_bytes for o in self.objects(index, option.level)))
            for option in self._found[index]
        )

    def rank(self, index: int, level: str) -> int:
        """Of a level that a chunk was found at."""
        return self._ranks[index, level]

    def got(self, index: int, layers: str = ALL) -> None:
        """A kind of a chunk's layers is there, or all of them."""
        self._held[index].update(self._kinds if layers == ALL else (layers,))

    def cannot_be_had(self, index: int, level: str) -> None:
        """A level of a chunk is of no use."""
        kept = (option for option in self._found[index] if option.level != level)
        self._found[index] = tuple(kept)

    def store_is_gone(self) -> None:
        """Nothing more can be fetched."""
        self._found = [()] * len(self._found)

    def last_before(self, place: int) -> list[int] | None:
        """How many tokens of each layer a model that goes on there needs; None: all of them."""
        if not self._windows:
            return None
        return [tokens_before(kind_of(window), place) for window in self._windows]

    def last_at_end(self) -> list[int] | None:
        """How many tokens of each layer there are in the end; None: all of them."""
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
        """Whether tokens of a chunk are among those needed to go on at a place behind its start."""
        return self._ranges[index][1] > place - tokens_before(kind, place)


def begin(needs: Needs, chunks: Sequence[ChunkState], *, can_recompute: bool) -> None:
    """Let chunks be fetched at what is needed of them.

    What the model must compute, for want of anything stored, is known from the start.
    """
    for chunk in chunks:
        if can_recompute and not chunk.options:
            needs.compute_at(chunk.start)
    for index, chunk in enumerate(chunks):
        chunk.options = needs.options(index)
