"""A controller that ends a load once vLLM would be faster without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachegen.engines.vllm.costs import TRIAL_SHARE
from cachegen.policy.controller import Controller, Decision, LoadState, Resource
from cachegen.policy.costs import PrefillCost
from cachegen.policy.schedule import assumed_bytes_per_s, chunks_left, decode_s, ends, nearest

# A load is not judged by estimates before it has lasted this share of what computing all of it
# would take: what is lost by then is little, and the first bytes have come. Without a floor, since
# 0.2 s are a fifth of what 4,096 tokens of a small model take. Arbitrary: 0.03 to 0.08 do.
_GRACE_SHARE = 0.06


@dataclass(frozen=True, slots=True)
class WhileItPays:
    """Another controller's decisions, as long as loading the rest ends before computing it.

    Of a trial nothing is estimated, as that would be by what is in doubt: it goes on as long as the
    time that has passed, with that of computing what is not there yet, is hardly more than that of
    computing everything.

    Attributes:
        inner: decides.
        prefill: what vLLM takes to compute tokens.
        give_up: called, from the deciding thread, once loading does not pay any more.
        start: the first token that is loaded.
        is_trial: whether the load was begun though it does not pay by what is known.
    """

    inner: Controller
    prefill: PrefillCost
    give_up: Callable[[], None]
    start: int = 0
    is_trial: bool = False

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """As the other."""
        self._look(state)
        return self.inner.choose(state, resource)

    def reconsider(self, state: LoadState) -> Decision | None:
        """As the other."""
        self._look(state)
        return self.inner.reconsider(state)

    def _look(self, state: LoadState) -> None:
        if state.is_done:
            return
        all_s = self._computes_s(state, self.start)
        rest_s = self._computes_s(state, max(state.chunks[state.front].start, self.start))
        if self.is_trial:
            is_over = state.now_s + rest_s > (1 + TRIAL_SHARE) * all_s
        else:
            is_over = state.now_s > _GRACE_SHARE * all_s and loads_s(state) > rest_s
        if is_over:
            self.give_up()

    def _computes_s(self, state: LoadState, start: int) -> float:
        """Seconds to compute everything from a token on."""
        return self.prefill.seconds(state.chunks[-1].stop - start, past=start)


def loads_s(state: LoadState) -> float:
    """Seconds until everything is loaded, at the default level where it is not under way."""
    rate = assumed_bytes_per_s(state)
    under_way = ends(state, rate)
    link_s, loaded_s = under_way.link_s, under_way.decoder_s
    for index in chunks_left(state):
        chunk = state.chunks[index]
        if chunk.options:
            option = nearest(chunk.options, state.default_rank)
            link_s += option.size_bytes / rate
            loaded_s = max(loaded_s, link_s) + decode_s(state, chunk, option.level)
    return loaded_s
