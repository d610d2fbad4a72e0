"""Decides after a failed fetch: retry, use another level, or give up the store."""

from __future__ import annotations

import math
import random
from enum import Enum

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
from cachegen.policy.controller import Decision

# Arbitrary: 3, so that one silence (which counts double) does not end the store, to 10 does.
_STORE_FAILURES = 5
# Some round trips of a distant store. Arbitrary: 0.01 to 0.2 s does.
_FIRST_WAIT_S = 0.05


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
