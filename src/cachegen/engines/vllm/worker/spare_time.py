"""When saves may go on: while the engine computes nothing, and else seldom.

They take the engine's interpreter, cores and memory: beside one a small model's steps took 5 to 7%
longer, and lookups three times as long (docs/LOG.md, 2026-11-30).
"""

from __future__ import annotations

import threading
import time

# An engine that has requests begins its next step within some milliseconds, and a client that asks
# one question after the other comes back as soon. Arbitrary: 10 to 100 ms do.
_QUIET_S = 0.02
# Beside an engine that never rests a third of a core is taken: for every second of work two of
# rest. Arbitrary: 1 to 4 do; the more, the less is saved there.
_BUSY_REST = 2.0
# And what comes after a pause begins so much later. Arbitrary: 0.3 to 3 s do: above the steps of
# small models, far below the time in which another server asks for what is saved.
_PATIENCE_S = 1.0


class SpareTime:
    """Tells one thread when to work; the engine's thread never waits for it."""

    def __init__(self) -> None:
        """Start beside an idle engine."""
        self._is_computing = False
        self._last_s = -_QUIET_S
        self._ended = threading.Event()
        self._owed_s = _PATIENCE_S
        self._work_began_s: float | None = None

    def step_began(self) -> None:
        """Note that the engine computes."""
        self._is_computing = True

    def step_ended(self) -> None:
        """Note that a step has ended; one that computes nothing counts too: requests wait then."""
        self._last_s = time.monotonic()
        self._is_computing = False

    def end(self) -> None:
        """Let nobody wait any more."""
        self._ended.set()

    def wait(self) -> None:
        """Wait, before the first and between two pieces of work, until the next may begin."""
        self._count()
        until_s = time.monotonic() + self._owed_s
        while not self._ended.is_set():
            now_s = time.monotonic()
            left_s = min(self._quiet_at_s(now_s), until_s) - now_s
            if left_s <= 0:
                break
            self._ended.wait(left_s)
        self._owed_s, self._work_began_s = 0.0, time.thread_time()

    def pause(self) -> None:
        """Note that there is no more work for now."""
        self._count()
        self._owed_s = max(self._owed_s, _PATIENCE_S)

    def _count(self) -> None:
        """Owe rest for the piece of work that has ended: for what this thread computed in it."""
        if self._work_began_s is not None:
            self._owed_s += _BUSY_REST * (time.thread_time() - self._work_began_s)
            self._work_began_s = None

    def _quiet_at_s(self, now_s: float) -> float:
        """When the engine has been quiet for long enough, if it stays so."""
        return (now_s if self._is_computing else self._last_s) + _QUIET_S
