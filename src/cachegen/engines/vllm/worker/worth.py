"""A controller that ends a load once vLLM would be faster without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachegen.policy.controller import Controller, Decision, LoadState, Resource
from cachegen.policy.costs import PrefillCost
from cachegen.policy.schedule import assumed_bytes_per_s, chunks_left, decode_s, ends, nearest

# Before it the throughput is mostly what earlier loads had (`policy/link_estimate.py`: for 0.1 s),
# and the load was begun though that was known. Arbitrary: 0.15 to 0.5 s do.
_GRACE_S = 0.2
# Nor is it judged before it has lasted this share of what computing everything would take: what is
# lost by then is little. Arbitrary: 0.05 to 0.2 do.
_GRACE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class WhileItPays:
    """Another controller's decisions, as long as loading the rest ends before computing it.

    Attributes:
        inner: decides.
        prefill: what vLLM takes to compute tokens.
        give_up: called, from the deciding thread, once loading does not pay any more.
    """

    inner: Controller
    prefill: PrefillCost
    give_up: Callable[[], None]

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
        grace_s = max(_GRACE_S, _GRACE_SHARE * self.prefill.seconds(state.chunks[-1].stop))
        if state.now_s > grace_s and loads_s(state) > self._computes_s(state):
            self.give_up()

    def _computes_s(self, state: LoadState) -> float:
        """Seconds to compute what is not loaded yet."""
        start, stop = state.chunks[state.front].start, state.chunks[-1].stop
        return self.prefill.seconds(stop - start, past=start)


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
