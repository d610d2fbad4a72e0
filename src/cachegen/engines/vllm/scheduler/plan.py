"""How much of a stored prefix to load: what is better computed is left to vLLM.

vLLM computes the end of a prompt and cannot compute a hole, so what is loaded is a beginning. Its
chunks are loaded in their order; the model computes the rest once they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.engines.vllm.costs import TRIAL_SHARE, Learned
from cachegen.policy.controller import ChunkState, LoadState
from cachegen.policy.schedule import decode_s, nearest


@dataclass(frozen=True, slots=True)
class Plan:
    """The best way to have a prompt's keys and values.

    Attributes:
        stop: load up to this token; nothing where it is the first one asked for.
        load_s: seconds that the load takes by itself, as far as known.
        total_s: seconds until the prompt is computed; None while the cost of prefilling is unknown.
        compute_s: the same without a load.
    """

    stop: int
    load_s: float
    total_s: float | None
    compute_s: float | None

    def pays(self, backlog_s: float) -> bool:
        """Whether to load behind others that take so many seconds."""
        if self.total_s is None or self.compute_s is None:
            return True
        return backlog_s + self.total_s < self.compute_s


class Prospect:
    """The usable chunks of a stored prefix of a prompt."""

    def __init__(
        self,
        chunks: Sequence[ChunkState],
        *,
        prompt_tokens: int,
        block_tokens: int,
        default_rank: int,
    ) -> None:
        """Take the chunks as they are stored; one that begins inside a block ends them."""
        usable = []
        for chunk in chunks:
            if chunk.start % block_tokens or not chunk.options:
                break
            usable.append(chunk)
        self._chunks = tuple(usable)
        self._prompt_tokens, self._block_tokens = prompt_tokens, block_tokens
        self._default_rank = default_rank
        self._known: tuple[int, Learned, float | None, Plan] | None = None

    @property
    def stop(self) -> int:
        """The end of what can be loaded."""
        last = self._chunks[-1].stop if self._chunks else 0
        return last - last % self._block_tokens

    def chunk_stop(self, token: int) -> int:
        """The end of the chunk that a token is in."""
        return next(chunk.stop for chunk in self._chunks if chunk.stop > token)

    def plan(self, local: int, learned: Learned, slo_s: float | None) -> Plan:
        """The best end of a load that begins at token ``local``; kept until what is known changes.

        With ``slo_s``, seconds from the request's arrival, the best level that meets it counts,
        else the level that ends first.
        """
        known = self._known
        if known is None or known[:3] != (local, learned, slo_s):
            known = (local, learned, slo_s, self._best(local, learned, slo_s))
            self._known = known
        return known[3]

    def trial(self, local: int, learned: Learned) -> Plan:
        """All of it, though what is known says that it does not pay: what was measured may have
        passed, and nothing but a load measures it again.

        It takes no longer than it may before it is ended, unless it pays after all.
        """
        compute_s = learned.prefill_s(self._prompt_tokens - local, local)
        load_s = TRIAL_SHARE * (compute_s or 0.0)
        return Plan(self.stop, load_s, load_s, compute_s)

    def _best(self, local: int, learned: Learned, slo_s: float | None) -> Plan:
        if slo_s is None:
            return self._at_rank(local, learned, self._default_rank)
        ranks = sorted({o.rank for chunk in self._chunks for o in chunk.options}, reverse=True)
        plans = [self._at_rank(local, learned, rank) for rank in ranks]
        for plan in plans:
            if plan.total_s is None or plan.total_s <= slo_s:
                return plan
        return min(plans, key=lambda plan: plan.total_s or 0.0)

    def _at_rank(self, local: int, learned: Learned, rank: int) -> Plan:
        compute_s = learned.prefill_s(self._prompt_tokens - local, local)
        best = Plan(local, 0.0, compute_s, compute_s)
        state = LoadState(chunks=list(self._chunks), costs=learned.costs, default_rank=rank)
        link_s, loaded_s = learned.costs.request_s, 0.0
        for chunk in self._chunks:
            if chunk.stop <= local:
                continue
            option = nearest(chunk.options, rank)
            link_s += option.size_bytes / (learned.bytes_per_s or float("inf"))
            loaded_s = max(link_s, loaded_s) + decode_s(state, chunk, option.level)
            stop = chunk.stop - chunk.stop % self._block_tokens
            if stop <= local:
                continue
            rest_s = learned.prefill_s(max(self._prompt_tokens - stop, 1), stop)
            if rest_s is None or best.total_s is None:
                best = Plan(stop, loaded_s, None, None)
            elif loaded_s + rest_s <= best.total_s:
                best = Plan(stop, loaded_s, loaded_s + rest_s, compute_s)
        return best
