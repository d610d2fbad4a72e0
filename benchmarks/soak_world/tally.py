"""What clients count, and what they find wrong."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

# Arbitrary: 10 to 1,000 do. What is wrong beyond that is counted only.
_KEPT = 50


@dataclass(slots=True, eq=False)
class Tally:
    """Counters of one process; thread-safe.

    Attributes:
        counts: by what was done and what came of it.
        wrong: what must not be, in words.
        failures: an example of each kind of failure that happened while the server lived.
        is_calm: whether the server lives to the end from here on.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    is_calm: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        with self._lock:
            self.counts[what] += number

    def fail(self, name: str, error: Exception) -> None:
        """Count what a client could not do, which may be right."""
        kind = f"{name}: {type(error).__name__}"
        self.count(f"calm: {kind}" if self.is_calm else kind)
        if self.is_calm:
            self.failures.setdefault(kind, str(error)[:300])

    def blame(self, text: str) -> None:
        """Note what is wrong."""
        with self._lock:
            self.counts["wrong"] += 1
            if len(self.wrong) < _KEPT:
                self.wrong.append(text)

    def snapshot(self) -> tuple[Counter[str], list[str], dict[str, str]]:
        """The counts and words so far."""
        with self._lock:
            return self.counts.copy(), list(self.wrong), dict(self.failures)
