"""An estimate of when a run will end, from its progress so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Pace:
    """The progress of the current phase of a run, and the time that is left.

    Work that an interrupted run had done before does not count towards the pace.
    """

    clock: Callable[[], float] = time.monotonic
    description: str = ""
    completed: float = 0
    total: float | None = None
    began_s: float = field(init=False)
    phase_began_s: float = field(init=False)
    first: float | None = None

    def __post_init__(self) -> None:
        self.began_s = self.phase_began_s = self.clock()

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> bool:
        """Note where the work is; whether a new phase begins with this. What is None stays."""
        phase = self.description if description is None else description
        new = phase != self.description
        if new:
            self.description, self.completed, self.total = phase, 0, None
            self.first, self.phase_began_s = None, self.clock()
        self.total = self.total if total is None else total
        if completed is not None:
            self.completed = completed
            self.first = completed if self.first is None else self.first
        return new

    def elapsed(self) -> str:
        """How long all of it has taken."""
        return duration(self.clock() - self.began_s)

    def left(self) -> str:
        """Parts done of how many, and the time that the rest will take where that is known."""
        if self.total is None:
            return f"{self.completed:.0f} done" if self.completed else ""
        counted = f"{self.completed:.0f} of {self.total:.0f}"
        just_done = self.completed - (self.first or 0)
        if just_done <= 0 or self.completed >= self.total:
            return counted
        each_s = (self.clock() - self.phase_began_s) / just_done
        return f"{counted}, about {duration(each_s * (self.total - self.completed))} left"


def duration(seconds: float) -> str:
    """Seconds for people: `8 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
