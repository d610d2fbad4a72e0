"""The model: shared by loads, one chunk at a time; each recomputes in the thread of its caller."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from cachegen.codec.levels import TEXT
from cachegen.contexts.needs import Needs
from cachegen.kvcache import KVCache
from cachegen.loading.accelerator import synchronize
from cachegen.loading.decoding import Decoder
from cachegen.loading.ledger import Journal
from cachegen.policy.controller import LoadState, Status

# How late a load that is given up is noticed. Arbitrary: 0.01 to 0.2 s does.
_POLL_S = 0.05
# Time for a woken thread of another load to ask first. Arbitrary: 1 to 20 ms, far below a prefill.
_POLITE_S = 0.005


class ModelQueue:
    """A model shared by several loads, one chunk at a time.

    A load takes the model only if it is free, and lets others go first afterwards. It queues only
    for a chunk that it cannot load in any other way.
    """

    def __init__(self) -> None:
        """Start without loads."""
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()
        self._users: dict[object, Callable[[], None]] = {}
        self._last: tuple[object, float] = (None, 0.0)

    @property
    def users(self) -> int:
        """Number of loads that share the model."""
        return len(self._users)

    @contextmanager
    def using(self, user: object, wake: Callable[[], None]) -> Iterator[None]:
        """Count as a user meanwhile; ``wake`` is called when the model becomes free."""
        with self._lock:
            self._users[user] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._users[user]

    def queue(self, user: object) -> Turn:
        """Join the queue, and return the place in it."""
        with self._lock:
            return self._append(user)

    def take(self, user: object) -> Turn | None:
        """Take the model; None if it is in use, or if others go first."""
        with self._lock:
            last, ended_s = self._last
            is_polite = last is not user or time.monotonic() - ended_s >= _POLITE_S
            if self._queue or not (is_polite or len(self._users) < 2):
                return None
            return self._append(user)

    def end(self, turn: Turn) -> None:
        """Leave the queue, from its head or not; calling it again does nothing."""
        with self._lock:
            if turn not in self._queue:
                return
            if self._queue[0] is turn and turn.was_used:
                self._last = (turn.user, time.monotonic())
            self._queue.remove(turn)
            if self._queue:
                self._queue[0].come.set()
            wakers = list(self._users.values()) if turn.was_used else []
        for wake in wakers:
            wake()

    def _append(self, user: object) -> Turn:
        turn = Turn(user)
        self._queue.append(turn)
        if self._queue[0] is turn:
            turn.come.set()
        return turn


@dataclass(slots=True, eq=False)
class Turn:
    """A place in the queue.

    Attributes:
        user: the load.
        come: set once it is at the head.
        was_used: whether the load used the model.
    """

    user: object
    come: threading.Event = field(default_factory=threading.Event)
    was_used: bool = False

    def wait(self, is_given_up: Callable[[], bool]) -> bool:
        """Wait for the head of the queue; False if the load is given up before."""
        while not self.come.wait(_POLL_S):
            if is_given_up():
                return False
        self.was_used = not is_given_up()
        return self.was_used


class Recompute(Protocol):
    """An engine's prefill of a part of a context."""

    def __call__(self, tokens: Sequence[int], *, past: KVCache | None) -> KVCache:
        """The cache of ``tokens``, given that of all tokens before them; None if there are none.

        In ``past`` layers with windows hold the tokens that they need.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """A chunk that was recomputed; times on the load's clock."""

    chunk: int
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class _Job:
    chunk: int
    start: int
    stop: int
    turn: Turn


class Recomputing:
    """The chunks of one load that its model recomputes, one at a time.

    The deciding thread starts them; the thread that called `load` computes, in `work`.
    """

    def __init__(
        self,
        recompute: Recompute | None,
        decoder: Decoder,
        model_queue: ModelQueue,
        state: LoadState,
        needs: Needs,
        journal: Journal,
        *,
        post: Callable[[Callable[[], None]], None],
        recomputed: Callable[[Recomputed], None],
    ) -> None:
        """Start without any.

        Args:
            recompute: the engine's; None if nothing can be recomputed.
            decoder: has the context's tokens and the cache to fill.
            model_queue: of loads that share the model.
            state: of the load, told when a chunk begins and ends.
            needs: of the load.
            journal: of the load.
            post: takes what the deciding thread is to do next, from any thread.
            recomputed: is told of every end.
        """
        self._recompute, self._decoder, self._queue = recompute, decoder, model_queue
        self._state, self._needs, self._journal = state, needs, journal
        self._post, self._recomputed = post, recomputed
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()

    def start(self, chunk: int, turn: Turn) -> None:
        """Recompute a chunk as soon as it is this load's turn."""
        state = self._state.chunks[chunk]
        state.status, state.level = Status.RECOMPUTING, TEXT
        self._state.recompute_began_s = self._state.now_s
        self._jobs.put(_Job(chunk, state.start, state.stop, turn))

    def work(self, is_given_up: Callable[[], bool]) -> None:
        """Recompute what is started, in the calling thread, until `finish`.

        Raises:
            ValueError: the engine's cache does not fit.
        """
        while (job := self._jobs.get()) is not None:
            try:
                if job.turn.wait(is_given_up):
                    self._compute(job)
            finally:
                self._queue.end(job.turn)

    def finish(self) -> None:
        """Let `work` end."""
        self._jobs.put(None)

    def drop(self) -> None:
        """Leave the model's queue with all that was not computed; call it when nothing starts."""
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                self._queue.end(job.turn)

    def _compute(self, job: _Job) -> None:
        assert self._recompute is not None
        decoder, began_s = self._decoder, self._journal.now_s()
        past = decoder.assembly.kv(job.start, last=self._needs.last_before(job.start))
        part = self._recompute(decoder.tokens[job.start : job.stop].tolist(), past=past)
        misfit = decoder.assembly.misfit(part, start=job.start, stop=job.stop)
        if misfit:
            raise ValueError(f"`recompute` gave a cache that does not fit: {misfit}")
        decoder.assembly.place(part.to(decoder.device))
        synchronize(decoder.device)
        recomputed = Recomputed(job.chunk, began_s, self._journal.now_s())
        self._post(partial(self._end, recomputed))

    def _end(self, recomputed: Recomputed) -> None:
        self._state.recompute_began_s = None
        self._recomputed(recomputed)
