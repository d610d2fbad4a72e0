"""One load under way: keeps link, decoder and model busy, as the controller decides.

A driver thread waits for events of downloads, of the decoder, and of the thread that called `load`,
which recomputes. Only the driver thread changes the state.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cachegen.bitstream.manifest import StoredObject
from cachegen.codec.levels import TEXT
from cachegen.contexts.needs import Needs
from cachegen.contexts.outcome import LoadedChunk
from cachegen.errors import BitstreamError, CacheGenError, LoadCancelled
from cachegen.kvcache import KVCache
from cachegen.loading.accelerator import synchronize
from cachegen.loading.bundle import Whole
from cachegen.loading.fetching import Ended, Fetching, FromLink
from cachegen.loading.journal import Journal
from cachegen.loading.model_queue import Turn
from cachegen.loading.resources import LoadResources
from cachegen.loading.result import Span
from cachegen.loading.retries import Remedy, Retries
from cachegen.loading.sharing import decoder
from cachegen.policy.controller import (
    MAX_UNDECODED,
    ChunkState,
    Controller,
    Decision,
    LoadState,
    Status,
)
from cachegen.policy.replan_guard import ReplanGuard
from cachegen.policy.schedule import nearest, request_due_s

# Arbitrary: 2 to 50 ms end within 1%; with 50 ms one deadline in 60 more is missed (120 simulated
# loads on links of benchmarks/slo_worlds.py, by hand).
_TICK_S = 0.01
# What `Controller.choose` promises.
_IDLE_TICK_S = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ModelJob:
    """A chunk for the calling thread to recompute."""

    chunk: int
    start: int
    stop: int
    turn: Turn


@dataclass(frozen=True, slots=True, eq=False)
class _Worked:
    """Decoding or recomputing a chunk has ended, with or without an error."""

    chunk: int
    work: str
    began_s: float
    ended_s: float
    error: CacheGenError | None = None
    objects: tuple[StoredObject, ...] = ()


@dataclass(frozen=True, slots=True)
class _DecodeBegan:
    at_s: float


_Event = _Worked | _DecodeBegan | FromLink | None


class Run:
    """Loads the chunks of a state: `drive` runs in one thread, jobs in another."""

    def __init__(
        self,
        state: LoadState,
        needs: Needs,
        controller: Controller,
        *,
        resources: LoadResources,
        journal: Journal,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        """Prepare a load, which begins with `drive`; ``needs`` are of the state's chunks."""
        self.state, self.needs, self.resources, self.journal = state, needs, resources, journal
        self.jobs: queue.SimpleQueue[ModelJob | None] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self._controller, self._progress = controller, progress
        self._cancelled = cancel or threading.Event()
        self._stopped = False
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._fetching = Fetching(state, resources, journal, self._events.put)
        self._retries = Retries()
        self._replan_guard: ReplanGuard | None = None
        self._undecoded = 0
        self._had: dict[int, list[StoredObject]] = {}
        self._owed: set[int] = set()
        self._lost: LoadedChunk | None = None

    def drive(self) -> None:
        """Work until every chunk is done, or the rest cannot be loaded."""
        try:
            with self.resources.model_queue.using(self, lambda: self._events.put(None)):
                self._settle(*range(len(self.state.chunks)))
                self._advance()
                while not self.state.is_done:
                    self._take(self._next_event())
                    self._advance()
        except BaseException as error:
            self.failure = error
        finally:
            try:
                self._fetching.abandon()
            finally:
                self.jobs.put(None)

    def stop(self) -> None:
        """Make `drive` end soon; callable from any thread."""
        self._stopped = True
        self._events.put(None)

    def drop_jobs(self) -> None:
        """Leave the model queue for all jobs not done; call it after `drive`."""
        while not self.jobs.empty():
            job = self.jobs.get()
            if job is not None:
                self.resources.model_queue.end(job.turn)

    def recompute(self, job: ModelJob, compute: Callable[..., KVCache]) -> None:
        """Do a job in the calling thread: ``compute(past=...)`` returns its part of the cache.

        Raises:
            ValueError: the part does not fit.
        """
        try:
            if job.turn.wait(lambda: self._stopped or self._cancelled.is_set()):
                self._recompute_now(job, compute)
        finally:
            self.resources.model_queue.end(job.turn)

    def _recompute_now(self, job: ModelJob, compute: Callable[..., KVCache]) -> None:
        assembly, began_s = self.resources.assembly, self.journal.now_s()
        part = compute(past=assembly.kv(job.start, last=self.needs.last_before(job.start)))
        misfit = assembly.misfit(part, start=job.start, stop=job.stop)
        if misfit:
            raise ValueError(f"`recompute` gave a cache that does not fit: {misfit}")
        assembly.place(part.to(self.resources.device))
        synchronize(self.resources.device)
        ended_s = self.journal.now_s()
        seconds = ended_s - began_s
        self.resources.measurements.add_prefill(job.stop - job.start, job.start, seconds)
        self._events.put(_Worked(job.chunk, "recompute", began_s, ended_s))

    def chunks(self) -> tuple[LoadedChunk, ...]:
        """The outcome of every chunk."""
        had = (
            self._outcome(index, chunk.start, chunk.stop, chunk.level)
            for index, chunk in enumerate(self.state.chunks)
        )
        return (*had, *([self._lost] if self._lost else []))

    def _outcome(self, index: int, start: int, stop: int, level: str | None) -> LoadedChunk:
        had = [] if level in (None, TEXT) else self._had.get(index, [])
        size_bytes = sum(stored.size_bytes for stored in had)
        reason, retries = self.journal.reason(index), self._retries.of_chunk(index)
        return LoadedChunk(start, stop, level, size_bytes, reason, retries)

    def _next_event(self) -> _Event:
        waits = bool(self.state.transfers or self._retries.pending)
        waits = waits or self.resources.model_queue.users > 1
        tick_s = _TICK_S if waits else _IDLE_TICK_S
        try:
            return self._events.get(timeout=min(request_due_s(self.state) or tick_s, tick_s))
        except queue.Empty:
            return None

    def _take(self, event: _Event) -> None:
        """Handle an event and all that are queued behind it."""
        while True:
            if self._stopped or self._cancelled.is_set():
                raise LoadCancelled("the load was cancelled")
            if isinstance(event, _Worked):
                self._worked(event)
            elif isinstance(event, _DecodeBegan):
                self.state.decode_began_s = event.at_s
            elif isinstance(event, FromLink):
                self._transfer_ended(self._fetching.take(event))
            if self._events.empty():
                return
            event = self._events.get()

    def _transfer_ended(self, ended: Ended | None) -> None:
        if ended is None:
            return
        transfer, news = ended.transfer, ended.news
        if isinstance(news, Whole):
            self._fetching.end(transfer, "done")
            self._retries.succeeded()
            self._decode(transfer.chunk, ended.objects, news.data)
        else:
            self._fetching.end(transfer, type(news.error).__name__)
            self._failed(
                transfer.chunk, transfer.option.level, news.error, began_s=transfer.began_s
            )

    def _worked(self, event: _Worked) -> None:
        if event.work == "decode":
            self._undecoded -= 1
            self.state.decode_began_s = None
        if event.chunk >= len(self.state.chunks):
            return
        chunk = self.state.chunks[event.chunk]
        level, outcome = chunk.level or "", type(event.error).__name__ if event.error else "done"
        self.journal.spans.append(
            Span(event.work, event.began_s, event.ended_s, event.chunk, level, outcome=outcome)
        )
        if event.work == "recompute":
            self.state.recompute_began_s = None
        if event.error is not None:
            self._failed(event.chunk, level, event.error, began_s=event.began_s)
            return
        self._got(event)
        self._settle(event.chunk)
        if self._progress is not None:
            done = (c.num_tokens for c in self.state.chunks if c.status is Status.DONE)
            self._progress(sum(done), self.state.chunks[-1].stop)

    def _got(self, event: _Worked) -> None:
        """Mark a decoded or recomputed chunk as done."""
        index, chunk = event.chunk, self.state.chunks[event.chunk]
        chunk.status = Status.DONE
        if event.work == "recompute":
            self._had.pop(index, None)
            self._owed.discard(index)
            self.needs.got(index)
            return
        had = self._had.setdefault(index, [])
        had += event.objects
        for stored in event.objects:
            self.needs.got(index, stored.layers)
        self._owed.discard(index)
        levels = (stored.level for stored in had)
        chunk.level = min(levels, key=lambda level: self.needs.rank(index, level))

    def _settle(self, *indices: int) -> None:
        """Mark chunks that miss nothing as done; set the options of others by what they miss."""
        for index in indices:
            chunk = self.state.chunks[index]
            if chunk.status is Status.DONE and self.needs.missing(index):
                chunk.status = Status.WAITING
                self._owed.add(index)
                self.state.front = min(self.state.front, index)
                self._events.put(None)
            if chunk.status is Status.WAITING:
                if not self.needs.missing(index):
                    chunk.status = Status.DONE
                chunk.options = self.needs.options(index)
        self.state.advance_front()

    def _failed(self, index: int, level: str, error: CacheGenError, *, began_s: float) -> None:
        chunk = self.state.chunks[index]
        chunk.status, chunk.level = Status.WAITING, None
        self._replan_guard = None
        self.journal.error(index, f"{level}: {type(error).__name__}: {error}")
        now_s = self.journal.now_s()
        remedy = self._retries.failed(index, level, error, began_s=began_s, now_s=now_s)
        if remedy is Remedy.AGAIN:
            return
        self.needs.cannot_be_had(index, level)
        if remedy is Remedy.NO_STORE:
            self.needs.store_is_gone()
        self._settle(*(range(len(self.state.chunks)) if remedy is Remedy.NO_STORE else [index]))

    def _advance(self) -> None:
        """Update the state, and let the controller use every idle resource."""
        self._look_resources()
        self._transfer_ended(self._fetching.stalled())
        if self.state.transfers:
            self._reconsider()
        while self._link_is_idle and self._use_link():
            pass
        self._use_model()
        self._insist()

    def _look_resources(self) -> None:
        state, resources = self.state, self.resources
        state.now_s = self.journal.now_s()
        state.bytes_per_s, state.low_bytes_per_s = resources.link.share(
            self.journal.began_s + state.now_s, own=self._fetching.num_objects
        )
        state.model_share = resources.model_queue.users
        state.decoder_share = decoder().share(self._undecoded)

    def _reconsider(self) -> None:
        decision = self._controller.reconsider(self.state)
        if decision is None:
            return
        place = self.state.chunks[decision.chunk].start
        if decision.action == "recompute" and self.needs.misses_before(place):
            return
        first = self.state.place_of(decision.chunk)
        turn = self.resources.model_queue.take(self) if decision.action == "recompute" else None
        if decision.action == "recompute" and turn is None:
            return
        for transfer in self._fetching.abandon(first):
            chunk = self.state.chunks[transfer.chunk]
            chunk.status, chunk.level = Status.WAITING, None
        self._replan_guard = None
        self._carry_out(decision, turn)

    @property
    def _link_is_idle(self) -> bool:
        return self._undecoded < MAX_UNDECODED and not request_due_s(self.state)

    def _use_link(self) -> bool:
        """Request the next transfer; False if there is none to request now."""
        while self._retries.pending:
            again = self._retries.take_due(self.state.now_s)
            if again is None:
                return False
            if self._can_fetch(again):
                self._carry_out(again)
                return True
        decision = self._owed_next()
        if decision is not None:
            self._carry_out(decision)
            return True
        decision = self._controller.choose(self.state, "link")
        if decision is None:
            self._replan_guard = None
            return False
        self._carry_out(decision)
        return True

    def _owed_next(self) -> Decision | None:
        """Fetch windows that a done chunk turned out to need, at its own level if possible."""
        chunks = self.state.chunks
        for index in sorted(self._owed):
            if index < len(chunks) and chunks[index].status is Status.WAITING:
                options = chunks[index].options
                levels = {stored.level for stored in self._had.get(index, ())}
                same = [option.level for option in options if option.level in levels]
                if options:
                    level = same[0] if same else nearest(options, self.state.default_rank).level
                    return Decision.fetch(index, level, "windows are needed there after all")
        return None

    def _can_fetch(self, decision: Decision) -> bool:
        if decision.chunk >= len(self.state.chunks):
            return False
        chunk = self.state.chunks[decision.chunk]
        return chunk.status is Status.WAITING and chunk.option(decision.level) is not None

    def _use_model(self) -> None:
        state = self.state
        if state.is_done or not state.can_recompute or state.recompute_began_s is not None:
            return
        front = state.chunks[state.front]
        if front.status is not Status.WAITING or (state.front in self._owed and front.options):
            return
        if self._replan_guard is not None and self._replan_guard.holds(state):
            return
        turn = self.resources.model_queue.take(self)
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
                self.resources.model_queue.end(turn)

    def _insist(self) -> None:
        """If nothing is under way for the front chunk, load it in any way, or end before it."""
        state = self.state
        if state.is_done or state.chunks[state.front].status is not Status.WAITING:
            return
        options = state.chunks[state.front].options
        is_coming = self._undecoded or state.transfers or self._retries.pending
        if options and (is_coming or state.front in self._owed):
            return
        if state.can_recompute:
            if state.recompute_began_s is None:
                decision = Decision.recompute(state.front, "there is no other way")
                self._carry_out(decision, self.resources.model_queue.queue(self))
        elif options:
            best = options[-1].level
            self._carry_out(Decision.fetch(state.front, best, "there is no other way"))
        else:
            self._lose_the_rest()

    def _lose_the_rest(self) -> None:
        """End the load before the front chunk."""
        state = self.state
        start = state.chunks[state.front].start
        stop = self._lost.stop if self._lost else state.chunks[-1].stop
        self._lost = self._outcome(state.front, start, stop, None)
        self._fetching.abandon()
        del state.chunks[state.front :]
        self.needs.end_at(start)
        self._settle(*range(state.front))

    def _carry_out(self, decision: Decision, turn: Turn | None = None) -> None:
        chunk = self.state.chunks[decision.chunk]
        self.journal.decided(decision)
        if turn is not None:
            self._recompute(decision.chunk, chunk, turn)
            return
        option = chunk.option(decision.level)
        if option is None or chunk.status is not Status.WAITING:
            raise ValueError(f"chunk {decision.chunk} cannot be fetched at {decision.level!r} now")
        chunk.status, chunk.level = Status.FETCHING, decision.level
        objects = self.needs.objects(decision.chunk, decision.level)
        self._fetching.start(decision.chunk, option, objects)

    def _recompute(self, index: int, chunk: ChunkState, turn: Turn) -> None:
        if index != self.state.front or self.state.recompute_began_s is not None:
            raise ValueError(f"chunk {index} cannot be recomputed before those in front of it")
        if self.needs.misses_before(chunk.start):
            self.resources.model_queue.end(turn)
            self.needs.compute_at(chunk.start)
            self._settle(*range(index))
            return
        chunk.status, chunk.level = Status.RECOMPUTING, TEXT
        self.state.recompute_began_s = self.state.now_s
        self.jobs.put(ModelJob(index, chunk.start, chunk.stop, turn))

    def _decode(
        self, index: int, objects: tuple[StoredObject, ...], data: tuple[memoryview, ...]
    ) -> None:
        self.state.chunks[index].status = Status.DECODING
        self._undecoded += 1
        decoder().submit(partial(self._decode_now, index, objects, data))

    def _decode_now(
        self, index: int, objects: tuple[StoredObject, ...], data: tuple[memoryview, ...]
    ) -> None:
        """Decode a chunk, in a thread of the decoder."""
        began_s, error = self.journal.now_s(), None
        self._events.put(_DecodeBegan(began_s))
        try:
            for stored, its_data in zip(objects, data, strict=True):
                self._place(index, stored, its_data)
        except CacheGenError as found:
            error = found
        except Exception as found:  # whatever a decoder stumbles over costs a level, not the load
            error = BitstreamError(f"{type(found).__name__}: {found}", field=objects[0].key)
        ended_s = self.journal.now_s()
        if error is None:
            num_tokens = self.needs.entries[index].num_tokens
            self.resources.measurements.add_decode(objects[0].level, num_tokens, ended_s - began_s)
        self._events.put(_Worked(index, "decode", began_s, ended_s, error, objects))

    def _place(self, index: int, stored: StoredObject, data: memoryview) -> None:
        resources, entry = self.resources, self.needs.entries[index]
        resources.decoder.decode(
            data, entry, stored, assembly=resources.assembly, device=resources.device
        )
