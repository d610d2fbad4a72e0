"""What to do about a fetch that failed: again, not at this level, or not from this store."""

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

_STORE_FAILURES = 5
_FIRST_WAIT_S = 0.05


class Remedy(Enum):
    """What is left to try."""

    AGAIN = "again"
    OTHER_LEVEL = "other level"
    NO_STORE = "no store"


class Retries:
    """Counts the failures of one load.

    A store that fails is asked for an object twice more, one that is silent and damaged bytes
    once more; what is gone, refused or of no use, not again. A store that fails too often in a
    row is given up; silence and refusals count double, and failures of what was under way at
    once count as one.

    Attributes:
        pending: by chunk, when what is to be asked for again.
    """

    def __init__(self) -> None:
        """Nothing failed yet."""
        self._attempts: dict[tuple[int, str], int] = {}
        self._again: dict[int, int] = {}
        self.pending: dict[int, tuple[float, Decision]] = {}
        self._in_a_row = 0
        self._failed_s = -math.inf

    def succeeded(self) -> None:
        """The store gave an object."""
        self._in_a_row = 0

    def failed(
        self, chunk: int, level: str, error: CacheGenError, *, began_s: float, now_s: float
    ) -> Remedy:
        """Count a failure, now, of what began then, and say what to do."""
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
        """The pending attempt that is due first, if it is due by now; it is pending no more."""
        due_s, again = min(self.pending.values(), key=lambda due: due[0])
        if now_s < due_s:
            return None
        del self.pending[again.chunk]
        return again

    def attempts(self, chunk: int, level: str) -> int:
        """How often an object failed."""
        return self._attempts.get((chunk, level), 0)

    def of_chunk(self, chunk: int) -> int:
        """How often objects of a chunk failed and were asked for again."""
        return self._again.get(chunk, 0)

    def wait_s(self, chunk: int, level: str) -> float:
        """How long to wait before the next attempt: doubling, and jittered by half."""
        doubled = _FIRST_WAIT_S * 2.0 ** (self.attempts(chunk, level) - 1)
        return doubled * random.uniform(0.5, 1.5)
