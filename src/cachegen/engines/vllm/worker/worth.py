"""A controller that ends a load once vLLM would be faster without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachegen.engines.vllm.costs import TRIAL_SHARE
from cachegen.policy.controller import Controller, Decision, LoadState, Resource
from cachegen.policy.costs import PrefillCost
from cachegen.policy.schedule import assumed_bytes_per_s, chunks_left, decode_s, ends, nearest

# Where chunks have come in time so far, estimates must be as bad to count: those of a link's first
# small chunks are off by a factor of up to 2. Arbitrary: 1.5 to 4 do.
_SURE = 2.0
# Whatever estimates say: one of a link that has come to a standstill grows with what was waited
# for, by a tenth of it. In times of what computing everything takes; reasoned, not tried.
_MOST = 2.0


@dataclass(frozen=True, slots=True)
class WhileItPays:
    """Another controller's decisions, as long as loading the rest ends before computing it.

    A load is late once the time that has passed, with that of computing what is not there yet, is
    more than that of computing everything, and a little (`TRIAL_SHARE`); before it has lasted that
    little it is not judged. Of a trial that alone decides: estimates would be by what is in doubt.
    Of others estimates decide, until it is very late (`_MOST`).

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
        if state.now_s <= TRIAL_SHARE * all_s:
            return
        ends_s = state.now_s + rest_s
        is_late = ends_s > (1 + TRIAL_SHARE) * all_s
        if self.is_trial or ends_s > _MOST * all_s:
            is_over = is_late
        else:
            is_over = loads_s(state) > (1.0 if is_late else _SURE) * rest_s
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
