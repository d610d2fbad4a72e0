"""One load under way: keeps link, decoder and model busy, as the controller decides.

Only a deciding thread changes the state. Downloads, the decoder, and the thread that called `load`,
which recomputes, post to it what it is to do next.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from cachegen.codec.levels import TEXT
from cachegen.contexts.needs import Needs
from cachegen.contexts.outcome import LoadedChunk
from cachegen.errors import CacheGenError, LoadCancelled
from cachegen.loading.decoding import Data, Decoded, Decoder, Decoding, Objects
from cachegen.loading.ledger import Journal, Ledger, Remedy, Retries
from cachegen.loading.link import Fetching
from cachegen.loading.model import Recompute, Recomputed, Recomputing, Turn
from cachegen.loading.resources import LoadResources
from cachegen.loading.result import Span
from cachegen.policy.controller import MAX_UNDECODED, Controller, Decision, LoadState, Status
from cachegen.policy.replan_guard import ReplanGuard
from cachegen.policy.schedule import request_due_s

# Arbitrary: 2 to 50 ms end within 1%; with 50 ms one deadline in 60 more is missed (120 simulated
# loads on links of simulation/varying.py, by hand).
_TICK_S = 0.01
# What `Controller.choose` promises.
_IDLE_TICK_S = 0.1

Progress = Callable[[int, int], None]


class Run:
    """Loads the chunks of a state."""

    def __init__(
        self,
        state: LoadState,
        needs: Needs,
        controller: Controller,
        *,
        decoder: Decoder,
        recompute: Recompute | None,
        resources: LoadResources,
        journal: Journal,
        progress: Progress | None,
        cancel: threading.Event | None,
    ) -> None:
        """Prepare to load; ``needs`` are of the state's chunks."""
        self._state, self._entries, self._controller = state, needs.entries, controller
        self._objects_of = needs.objects
        self._fetched_bytes = resources.room.fetched_bytes
        self._largest_bytes = max(
            (option.size_bytes for chunk in state.chunks for option in chunk.options), default=0
        )
        self._resources, self._journal, self._progress = resources, journal, progress
        self._cancelled = cancel or threading.Event()
        self._stopped = False
        self._failure: BaseException | None = None
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._retries = Retries()
        self._replan_guard: ReplanGuard | None = None
        self._ledger = Ledger(state, needs, wake=self._wake)
        post = self._posted.put
        self._fetching = Fetching(
            state,
            resources.store,
            resources.downloads,
            resources.link,
            journal,
            stall_s=resources.stall_s,
            post=post,
            fetched=self._fetched,
            failed=self._failed,
        )
        self._decoding = Decoding(
            decoder, resources.decoder, state, journal, post=post, decoded=self._decoded
        )
        self._recomputing = Recomputing(
            recompute,
            decoder,
            resources.model_queue,
            state,
            needs,
            journal,
            post=post,
            recomputed=self._recomputed,
        )

    def work(self) -> None:
        """Load every chunk, or as many as can be; what is recomputed is in the calling thread.

        Raises:
            ValueError: a recomputed cache does not fit.
            LoadCancelled: the load was cancelled.
        """
        deciding = threading.Thread(target=self._decide, name="cachegen-load", daemon=True)
        deciding.start()
        try:
            self._recomputing.work(self._is_given_up)
        finally:
            self._stopped = True
            self._wake()
            deciding.join()
            self._recomputing.drop()
        if self._failure is not None:
            raise self._failure

    def chunks(self) -> tuple[LoadedChunk, ...]:
        """The outcome of every chunk."""
        return self._ledger.outcomes(self._journal, self._retries)

    def _decide(self) -> None:
        """Decide until every chunk is done, or the rest cannot be loaded."""
        try:
            with self._resources.model_queue.using(self, self._wake):
                self._ledger.settle()
                self._advance()
                while not self._state.is_done:
                    self._do_posted()
                    self._advance()
        except BaseException as error:
            self._failure = error
        finally:
            try:
                self._fetching.abandon()
            finally:
                self._recomputing.finish()

    def _is_given_up(self) -> bool:
        return self._stopped or self._cancelled.is_set()

    def _wake(self) -> None:
        self._posted.put(lambda: None)

    def _do_posted(self) -> None:
        """Wait for something that was posted, but no longer than a tick; do all of it."""
        waits = bool(self._state.transfers or self._retries.pending)
        waits = waits or self._resources.model_queue.users > 1
        tick_s = _TICK_S if waits else _IDLE_TICK_S
        try:
            work = self._posted.get(timeout=min(request_due_s(self._state) or tick_s, tick_s))
        except queue.Empty:
            work = None
        for _ in range(1 + self._posted.qsize()):  # what comes meanwhile waits for the next time
            if self._is_given_up():
                raise LoadCancelled("the load was cancelled")
            if work is not None:
                work()
            if self._posted.empty():
                return
            work = self._posted.get()
        if work is not None:
            work()

    def _fetched(self, index: int, objects: Objects, data: Data) -> None:
        self._retries.succeeded()
        self._decoding.start(index, self._entries[index], objects, data)

    def _decoded(self, decoded: Decoded) -> None:
        if decoded.chunk >= len(self._state.chunks):
            return
        level = decoded.objects[0].level
        outcome = type(decoded.error).__name__ if decoded.error else "done"
        began_s, ended_s = decoded.began_s, decoded.ended_s
        self._journal.spans.append(
            Span("decode", began_s, ended_s, decoded.chunk, level, outcome=outcome)
        )
        if decoded.error is not None:
            self._failed(decoded.chunk, decoded.error, began_s)
            return
        num_tokens = self._entries[decoded.chunk].num_tokens
        self._resources.measurements.add_decode(level, num_tokens, ended_s - began_s)
        self._ledger.decoded(decoded.chunk, decoded.objects)
        self._tell_progress()

    def _recomputed(self, recomputed: Recomputed) -> None:
        if recomputed.chunk >= len(self._state.chunks):
            return
        chunk = self._state.chunks[recomputed.chunk]
        began_s, ended_s = recomputed.began_s, recomputed.ended_s
        self._journal.spans.append(
            Span("recompute", began_s, ended_s, recomputed.chunk, TEXT, outcome="done")
        )
        known, store = self._resources.measurements, self._resources.store
        known.add_prefill(chunk.num_tokens, chunk.start, ended_s - began_s)
        if self._state.costs.prefill is None:
            self._state.costs = known.costs(store.url)
        self._ledger.recomputed(recomputed.chunk)
        self._tell_progress()

    def _tell_progress(self) -> None:
        if self._progress is not None:
            done = (c.num_tokens for c in self._state.chunks if c.status is Status.DONE)
            self._progress(sum(done), self._state.chunks[-1].stop)

    def _failed(self, index: int, error: CacheGenError, began_s: float) -> None:
        """Choose what to try next for a chunk whose fetch or decoding, begun then, failed."""
        level = self._state.chunks[index].level or ""
        self._ledger.must_wait(index)
        self._replan_guard = None
        self._journal.error(index, f"{level}: {type(error).__name__}: {error}")
        now_s = self._journal.now_s()
        remedy = self._retries.failed(index, level, error, began_s=began_s, now_s=now_s)
        if remedy is Remedy.AGAIN:
            return
        self._ledger.cannot_be_had(index, level)
        if remedy is Remedy.NO_STORE:
            self._ledger.store_is_gone()

    def _advance(self) -> None:
        """Update the state, and let the controller use every idle resource."""
        self._look_at_resources()
        self._fetching.end_stalled()
        if self._state.transfers:
            self._reconsider()
        while self._link_is_idle and self._use_link():
            pass
        self._use_model()
        self._insist()

    def _look_at_resources(self) -> None:
        state, resources = self._state, self._resources
        state.now_s = self._journal.now_s()
        state.bytes_per_s, state.low_bytes_per_s = resources.link.share(
            self._journal.began_s + state.now_s, own=self._fetching.num_objects
        )
        state.model_share = resources.model_queue.users
        state.decoder_share = self._decoding.share

    def _reconsider(self) -> None:
        """Let the controller abandon a transfer for something better."""
        decision = self._controller.reconsider(self._state)
        if decision is None:
            return
        first, turn = self._state.place_of(decision.chunk), None
        if decision.action == "recompute":
            if self._ledger.misses_before(decision.chunk):
                return
            turn = self._resources.model_queue.take(self)
            if turn is None:
                return
        for transfer in self._fetching.abandon(first):
            self._ledger.must_wait(transfer.chunk)
        self._replan_guard = None
        self._carry_out(decision, turn)

    @property
    def _link_is_idle(self) -> bool:
        under_way = self._decoding.pending_bytes
        under_way += sum(transfer.option.size_bytes for transfer in self._state.transfers)
        has_room = not under_way or under_way + self._largest_bytes <= self._fetched_bytes
        is_behind = self._decoding.num_pending >= MAX_UNDECODED
        return has_room and not is_behind and not request_due_s(self._state)

    def _use_link(self) -> bool:
        """Request the next transfer; False if there is none to request now."""
        while self._retries.pending:
            again = self._retries.take_due(self._state.now_s)
            if again is None:
                return False
            if self._can_fetch(again):
                self._carry_out(again)
                return True
        decision = self._ledger.next_owed() or self._controller.choose(self._state, "link")
        if decision is None:
            self._replan_guard = None
            return False
        self._carry_out(decision)
        return True

    def _can_fetch(self, decision: Decision) -> bool:
        if decision.chunk >= len(self._state.chunks):
            return False
        chunk = self._state.chunks[decision.chunk]
        return chunk.status is Status.WAITING and chunk.option(decision.level) is not None

    def _use_model(self) -> None:
        """Recompute the front chunk, if the model is free and the controller wants it to."""
        state = self._state
        if state.is_done or not state.can_recompute or state.recompute_began_s is not None:
            return
        front = state.chunks[state.front]
        if front.status is not Status.WAITING:
            return
        if self._ledger.is_owed(state.front) and front.options:
            return
        if self._replan_guard is not None and self._replan_guard.holds(state):
            return
        turn = self._resources.model_queue.take(self)
        if turn is None:
            return
        handed_over = False
        try:
            decision = self._controller.choose(state, "model")
            if decision is not None and decision.action == "recompute":
                self._carry_out(decision, turn)
                handed_over = True
            else:
                self._replan_guard = ReplanGuard.of(state)
        finally:
            if not handed_over:
                self._resources.model_queue.end(turn)

    def _insist(self) -> None:
        """If nothing is under way for the front chunk, load it in any way, or end before it."""
        state = self._state
        if state.is_done or state.chunks[state.front].status is not Status.WAITING:
            return
        options = state.chunks[state.front].options
        is_coming = self._decoding.num_pending or state.transfers or self._retries.pending
        if options and (is_coming or self._ledger.is_owed(state.front)):
            return
        if state.can_recompute:
            if state.recompute_began_s is None:
                decision = Decision.recompute(state.front, "there is no other way")
                self._carry_out(decision, self._resources.model_queue.queue(self))
        elif options:
            best = options[-1].level
            self._carry_out(Decision.fetch(state.front, best, "there is no other way"))
        else:
            self._fetching.abandon()
            self._ledger.end_before(state.front)

    def _carry_out(self, decision: Decision, turn: Turn | None = None) -> None:
        """Do what was decided; with a turn at the model, recompute."""
        self._journal.decided(decision)
        if turn is not None:
            self._recompute(decision.chunk, turn)
            return
        chunk = self._state.chunks[decision.chunk]
        option = chunk.option(decision.level)
        if option is None or chunk.status is not Status.WAITING:
            raise ValueError(f"chunk {decision.chunk} cannot be fetched at {decision.level!r} now")
        chunk.status, chunk.level = Status.FETCHING, decision.level
        objects = self._objects_of(decision.chunk, decision.level)
        self._fetching.start(decision.chunk, option, objects)

    def _recompute(self, index: int, turn: Turn) -> None:
        if index != self._state.front or self._state.recompute_began_s is not None:
            raise ValueError(f"chunk {index} cannot be recomputed before those in front of it")
        if self._ledger.computes_at(index):
            self._recomputing.start(index, turn)
        else:
            self._resources.model_queue.end(turn)
