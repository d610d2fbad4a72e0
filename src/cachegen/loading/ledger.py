"""The books of a load: what was done and decided, what every chunk has, needs and has become."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from cachegen.bitstream.manifest import StoredObject
from cachegen.codec.levels import TEXT
from cachegen.contexts.needs import Needs
from cachegen.contexts.outcome import LoadedChunk
from cachegen.errors import (
    BitstreamError,
    CacheGenError,
    KeyNotFound,
    ProfileMismatch,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TokensMismatch,
)
from cachegen.loading.result import Span
from cachegen.policy.controller import Decision, LoadState, Status, TimedDecision
from cachegen.policy.schedule import nearest

# Arbitrary: 3, so that one silence (which counts double) does not end the store, to 10 does.
_STORE_FAILURES = 5
# Some round trips of a distant store. Arbitrary: 0.01 to 0.2 s does.
_FIRST_WAIT_S = 0.05


@dataclass(slots=True, eq=False)
class Journal:
    """The record of one load, on a clock that starts with it.

    Attributes:
        began_s: when the load began, on `time.perf_counter`.
        spans: the work done.
        decisions: the decisions taken.
        errors: messages by chunk.
    """

    began_s: float = field(default_factory=time.perf_counter)
    spans: list[Span] = field(default_factory=list)
    decisions: list[TimedDecision] = field(default_factory=list)
    errors: dict[int, list[str]] = field(default_factory=dict)

    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self.began_s

    def decided(self, decision: Decision) -> None:
        """Record a decision."""
        self.decisions.append(TimedDecision(self.now_s(), decision))

    def error(self, chunk: int, text: str) -> None:
        """Record an error of a chunk, each text once."""
        known = self.errors.setdefault(chunk, [])
        if text not in known:
            known.append(text)

    def reason(self, chunk: int) -> str:
        """All errors of a chunk, in one line."""
        return "; ".join(self.errors.get(chunk, ()))

    def in_order(self) -> tuple[Span, ...]:
        """The spans in the order of their beginnings."""
        return tuple(sorted(self.spans, key=lambda span: span.began_s))


class Remedy(Enum):
    """What to try next."""

    AGAIN = "again"
    OTHER_LEVEL = "other level"
    NO_STORE = "no store"


class Retries:
    """Counts the failures of one load.

    An object is retried twice after a failure of the store, once after silence or damaged bytes,
    and not at all if it is missing, denied or unusable. After five failures in a row the store is
    given up; silence and denials count double, failures of simultaneous transfers count as one.

    Attributes:
        pending: by chunk, the time of its retry on the load's clock, and the decision.
    """

    def __init__(self) -> None:
        """Start without failures."""
        self._attempts: dict[tuple[int, str], int] = {}
        self._again: dict[int, int] = {}
        self.pending: dict[int, tuple[float, Decision]] = {}
        self._in_a_row = 0
        self._failed_s = -math.inf

    def succeeded(self) -> None:
        """Note that the store delivered an object."""
        self._in_a_row = 0

    def failed(
        self, chunk: int, level: str, error: CacheGenError, *, began_s: float, now_s: float
    ) -> Remedy:
        """Count the failure at ``now_s`` of a fetch begun at ``began_s``; choose the remedy."""
        if isinstance(error, StoreError) and not isinstance(error, KeyNotFound):
            if began_s >= self._failed_s:
                self._in_a_row += 2 if isinstance(error, StoreDenied | StoreTimeout) else 1
                self._failed_s = now_s
            if self._in_a_row >= _STORE_FAILURES:
                return Remedy.NO_STORE
        if isinstance(error, KeyNotFound | StoreDenied | ProfileMismatch | TokensMismatch):
            return Remedy.OTHER_LEVEL
        self._attempts[chunk, level] = self.attempts(chunk, level) + 1
        allowed = 1 if isinstance(error, BitstreamError | StoreTimeout) else 2
        if self.attempts(chunk, level) > allowed:
            return Remedy.OTHER_LEVEL
        self._again[chunk] = self.of_chunk(chunk) + 1
        due_s = now_s + self.wait_s(chunk, level)
        self.pending[chunk] = (due_s, Decision.fetch(chunk, level, f"again, after {error}"))
        return Remedy.AGAIN

    def take_due(self, now_s: float) -> Decision | None:
        """Remove and return the earliest pending retry if it is due; else None."""
        due_s, again = min(self.pending.values(), key=lambda due: due[0])
        if now_s < due_s:
            return None
        del self.pending[again.chunk]
        return again

    def attempts(self, chunk: int, level: str) -> int:
        """Number of failures of a chunk at a level."""
        return self._attempts.get((chunk, level), 0)

    def of_chunk(self, chunk: int) -> int:
        """Number of retries of a chunk."""
        return self._again.get(chunk, 0)

    def wait_s(self, chunk: int, level: str) -> float:
        """Seconds before the next attempt: doubled each time, with a jitter of half."""
        doubled = _FIRST_WAIT_S * 2.0 ** (self.attempts(chunk, level) - 1)
        return doubled * random.uniform(0.5, 1.5)


class Ledger:
    """Keeps the status and the options of a load's chunks; only its deciding thread calls it.

    A chunk is owed if it was done, and windows of it turned out to be needed after all: that a
    model computes behind it is known only when the controller says so.
    """

    def __init__(self, state: LoadState, needs: Needs, *, wake: Callable[[], None]) -> None:
        """Start with nothing loaded; ``wake`` is called when a chunk becomes owed."""
        self._state, self._needs, self._wake = state, needs, wake
        self._had: dict[int, list[StoredObject]] = {}
        self._owed: set[int] = set()
        self._lost: tuple[int, int, int] | None = None

    def settle(self) -> None:
        """Mark chunks that miss nothing as done; set the options of others by what they miss."""
        self._settle(*range(len(self._state.chunks)))

    def decoded(self, index: int, objects: tuple[StoredObject, ...]) -> None:
        """Mark a chunk as done that these objects were decoded of."""
        had = self._had.setdefault(index, [])
        had += objects
        for stored in objects:
            self._needs.got(index, stored.layers)
        levels = (stored.level for stored in had)
        level = min(levels, key=lambda level: self._needs.rank(index, level))
        self._is_done(index, level)

    def recomputed(self, index: int) -> None:
        """Mark a chunk as done that the model recomputed."""
        self._had.pop(index, None)
        self._needs.got(index)
        self._is_done(index, TEXT)

    def must_wait(self, index: int) -> None:
        """Let a chunk wait again: its fetch or its decoding has ended without a result."""
        chunk = self._state.chunks[index]
        chunk.status, chunk.level = Status.WAITING, None

    def cannot_be_had(self, index: int, level: str) -> None:
        """Drop a level of a chunk from its options."""
        self._needs.cannot_be_had(index, level)
        self._settle(index)

    def store_is_gone(self) -> None:
        """Drop all options: nothing more can be fetched."""
        self._needs.store_is_gone()
        self.settle()

    def computes_at(self, index: int) -> bool:
        """Note that a model will compute this chunk; False if layers before it are missing.

        They are then owed.
        """
        start = self._state.chunks[index].start
        if not self._needs.misses_before(start):
            return True
        self._needs.compute_at(start)
        self._settle(*range(index))
        return False

    def misses_before(self, index: int) -> bool:
        """Whether a model that computes this chunk still lacks layers of those before it."""
        return self._needs.misses_before(self._state.chunks[index].start)

    def is_owed(self, index: int) -> bool:
        """Whether the chunk was done once, and is not any more."""
        return index in self._owed

    def next_owed(self) -> Decision | None:
        """Fetch the first chunk that is owed, at the level it has if possible."""
        chunks = self._state.chunks
        for index in sorted(self._owed):
            if index < len(chunks) and chunks[index].status is Status.WAITING:
                options = chunks[index].options
                levels = {stored.level for stored in self._had.get(index, ())}
                same = [option.level for option in options if option.level in levels]
                if options:
                    rank = self._state.default_rank
                    level = same[0] if same else nearest(options, rank).level
                    return Decision.fetch(index, level, "windows are needed there after all")
        return None

    def end_before(self, index: int) -> None:
        """End the load before a chunk."""
        chunks = self._state.chunks
        start, stop = chunks[index].start, chunks[-1].stop
        self._lost = (index, start, self._lost[2] if self._lost else stop)
        del chunks[index:]
        self._needs.end_at(start)
        self.settle()

    def outcomes(self, journal: Journal, retries: Retries) -> tuple[LoadedChunk, ...]:
        """What became of every chunk, and of the tokens behind the end."""

        def outcome(index: int, start: int, stop: int, level: str | None) -> LoadedChunk:
            had = [] if level in (None, TEXT) else self._had.get(index, [])
            size_bytes = sum(stored.size_bytes for stored in had)
            reason, count = journal.reason(index), retries.of_chunk(index)
            return LoadedChunk(start, stop, level, size_bytes, reason, count)

        chunks = enumerate(self._state.chunks)
        lost = [outcome(*self._lost, None)] if self._lost else []
        return (*(outcome(i, c.start, c.stop, c.level) for i, c in chunks), *lost)

    def _is_done(self, index: int, level: str) -> None:
        chunk = self._state.chunks[index]
        chunk.status, chunk.level = Status.DONE, level
        self._owed.discard(index)
        self._settle(index)

    def _settle(self, *indices: int) -> None:
        for index in indices:
            chunk = self._state.chunks[index]
            if chunk.status is Status.DONE and self._needs.missing(index):
                chunk.status = Status.WAITING
                self._owed.add(index)
                self._state.front = min(self._state.front, index)
                self._wake()
            if chunk.status is Status.WAITING:
                if not self._needs.missing(index):
                    chunk.status = Status.DONE
                chunk.options = self._needs.options(index)
        self._state.advance_front()
