"""When a model whose cost is unknown is tried: a load that waits has nothing to lose."""

from __future__ import annotations

from cachegen.policy.controller import Decision, LoadState, Status
from cachegen.policy.schedule import assumed_bytes_per_s, best_plan, chunks_left, ends, look

# A deadline is lost where fetching alone ends after so many times the deadline, and only after so
# many seconds from now: a model of unknown cost may take longer than what is a little late.
# Arbitrary: 1.2 to 3, and 0.3 to 3 s, do.
_LOST = 1.5
_LOST_S = 1.0
# Below any useful rate: no model needs so long for a token. 10 tokens a second is what the largest
# ones make on a CPU. Arbitrary: 0.03 to 1 s does.
_USELESS_S = 0.1


def untried(state: LoadState) -> Decision | None:
    """Recompute the front chunk, whatever that costs, if its transfer is of no use.

    None if the cost is known: then it decides.
    """
    front = state.chunks[state.front]
    if state.costs.prefill is not None or not state.can_recompute:
        return None
    if front.status is not Status.FETCHING or state.recompute_began_s is not None:
        return None
    rate = assumed_bytes_per_s(state)
    front_s = ends(state, rate).model_s
    if front_s > max(_USELESS_S * front.num_tokens, _LOST_S) and state.bytes_per_s is not None:
        reason = f"chunk {state.front} would come in {front_s:.1f} s"
    elif state.slo_s is not None and _is_lost(state, rate):
        reason = f"fetching misses the deadline of {state.slo_s:.1f} s"
    else:
        return None
    return Decision.recompute(state.front, f"{reason}; the model may be faster")


def _is_lost(state: LoadState, rate: float) -> bool:
    """Whether fetching alone, at the smallest levels, ends far behind the deadline."""
    left = chunks_left(state)
    fetched_s = best_plan(look(state, left, rate), 0).fetched_s
    return fetched_s > _LOST_S and state.now_s + fetched_s > _LOST * (state.slo_s or 0.0)
