"""The streaming algorithm of the CacheGen paper."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.policy.controller import Decision, LoadState, Resource
from cachegen.policy.in_order import best_that_fits, next_to_fetch, recompute_front, text_fits
from cachegen.policy.schedule import nearest


@dataclass(frozen=True, slots=True)
class Algorithm1:
    """Chunk by chunk in the order of the context, against the deadline.

    Text where recomputing all that is left meets it, else the best level at which the sizes of
    all that is left meet it, else the smallest. The default level without a deadline, and while
    the throughput is unknown. What is under way is never reconsidered.
    """

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """The next chunk in the order of the context."""
        if resource == "model":
            return recompute_front(state, by_choice=text_fits(state))
        left = next_to_fetch(state)
        if not left or text_fits(state):
            return None
        option = best_that_fits(state, left)
        if option is not None:
            reason = f"the best level that fits the {_remaining_s(state):.3f} s left"
        elif state.slo_s is None or state.bytes_per_s is None:
            option = nearest(state.chunks[left[0]].options, state.default_rank)
            reason = "no deadline" if state.slo_s is None else "the throughput is unknown"
        else:
            option = state.chunks[left[0]].options[0]
            reason = f"no level fits the {_remaining_s(state):.3f} s left"
        return Decision.fetch(left[0], option.level, reason)

    def reconsider(self, state: LoadState) -> Decision | None:
        """Never."""
        return None


def _remaining_s(state: LoadState) -> float:
    return (state.slo_s or 0.0) - state.now_s
