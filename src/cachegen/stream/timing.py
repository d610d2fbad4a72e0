"""Wall-clock time, divided among the parts of a job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Runs from its making; adds up what is measured or reported for each part."""

    def __init__(self) -> None:
        """Start."""
        self._began_s = time.perf_counter()
        self._spent_s: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the block's time towards a part, also when it fails."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - began_s)

    def add(self, part: str, seconds: float) -> None:
        """Count time that was measured elsewhere."""
        self._spent_s[part] = self.spent_s(part) + seconds

    def spent_s(self, part: str) -> float:
        """The sum for a part."""
        return self._spent_s.get(part, 0.0)

    def total_s(self) -> float:
        """Since the making."""
        return time.perf_counter() - self._began_s
