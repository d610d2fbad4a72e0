"""A controller that fetches every chunk at one level."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.policy.controller import Decision, LoadState, Resource
from cachegen.policy.in_order import best_that_fits, next_to_fetch, recompute_front, text_fits
from cachegen.policy.schedule import nearest
from cachegen.policy.untried import untried


@dataclass(frozen=True, slots=True)
class Fixed:
    """Fetch every chunk at one level, in the order of the context.

    A chunk that lacks the level is fetched at the next better one, else at its best. If the level
    cannot meet the deadline at the known throughput, the best smaller level that can is fetched;
    if none can, chunks are recomputed if that can, else fetched at the level all the same.

    Attributes:
        level: name of the level.
    """

    level: str

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """Choose the next chunk in the order of the context."""
        left = next_to_fetch(state)
        if not left:
            return recompute_front(state, by_choice=False) if resource == "model" else None
        asked = nearest(state.chunks[left[0]].options, self._rank(state))
        option = best_that_fits(state, left, up_to=asked.rank)
        by_text = option is None and state.bytes_per_s is not None and text_fits(state)
        if resource == "model":
            return recompute_front(state, by_choice=by_text)
        if by_text:
            return None
        if option is None or option is asked:
            return Decision.fetch(left[0], asked.level, f"{self.level} was asked for")
        return Decision.fetch(left[0], option.level, f"{asked.level} would miss the deadline")

    def reconsider(self, state: LoadState) -> Decision | None:
        """Try a model of unknown cost where a transfer is of no use; else abandon none."""
        return untried(state)

    def _rank(self, state: LoadState) -> int:
        """The level's rank, from any chunk that still has it; else the default rank."""
        for chunk in state.chunks:
            option = chunk.option(self.level)
            if option is not None:
                return option.rank
        return state.default_rank
