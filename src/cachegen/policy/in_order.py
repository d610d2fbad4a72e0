"""Shared by controllers that load chunks in the order of the context."""

from __future__ import annotations

from collections.abc import Sequence

from cachegen.policy.controller import Decision, LoadState, Option, Status
from cachegen.policy.schedule import chunks_left, ends, nearest, recompute_s


def next_to_fetch(state: LoadState) -> list[int]:
    """Indices of the waiting chunks that can be fetched."""
    return [index for index in chunks_left(state) if state.chunks[index].options]


def recompute_front(state: LoadState, *, by_choice: bool) -> Decision | None:
    """Recompute the front chunk if it waits and has no option, or if ``by_choice``."""
    chunk = state.chunks[state.front]
    if chunk.status is not Status.WAITING:
        return None
    if not chunk.options:
        return Decision.recompute(state.front, "it cannot be fetched")
    if by_choice:
        return Decision.recompute(state.front, "recomputing all that is left meets the deadline")
    return None


def text_fits(state: LoadState) -> bool:
    """Whether recomputing all waiting chunks meets the deadline."""
    if state.slo_s is None:
        return False
    begins_s = ends(state, state.bytes_per_s or float("inf")).model_s
    needed_s = sum(recompute_s(state, state.chunks[index]) for index in chunks_left(state))
    return begins_s + needed_s <= state.slo_s - state.now_s


def best_that_fits(
    state: LoadState, left: Sequence[int], *, up_to: int | None = None
) -> Option | None:
    """The best option of the first chunk at whose rank all chunks in ``left`` arrive in time.

    None if there is none, or if deadline or throughput are unknown. ``up_to`` is the highest rank
    allowed.
    """
    if state.slo_s is None or state.bytes_per_s is None:
        return None
    budget_bytes = (state.slo_s - state.now_s) * state.bytes_per_s
    budget_bytes -= sum(transfer.missing_bytes for transfer in state.transfers)
    for option in reversed(state.chunks[left[0]].options):
        if up_to is None or option.rank <= up_to:
            sizes = (nearest(state.chunks[i].options, option.rank).size_bytes for i in left)
            if sum(sizes) <= budget_bytes:
                return option
    return None
