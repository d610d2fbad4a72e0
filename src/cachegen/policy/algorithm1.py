"""The streaming algorithm of the CacheGen paper."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.policy.controller import Decision, LoadState, Resource
from cachegen.policy.in_order import best_that_fits, next_to_fetch, recompute_front, text_fits
from cachegen.policy.schedule import nearest


@dataclass(frozen=True, slots=True)
class Algorithm1:
    """Load chunks in the order of the context, each as well as the deadline allows.

    Recompute if recomputing all remaining chunks meets the deadline; else fetch at the best level
    at which all remaining chunks arrive in time; else at the smallest. Without a deadline, or
    while the throughput is unknown, fetch at the default level. Transfers are never abandoned.
    """

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """Choose the next chunk in the order of the context."""
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
        """Return None: transfers are never abandoned."""
        return None


def _remaining_s(state: LoadState) -> float:
    return (state.slo_s or 0.0) - state.now_s
