"""A station does one job after another, in the order of arrival: a model or a decoder."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Job(Generic[Owner]):
    """A job for one chunk of a load.

    Attributes:
        owner: the load.
        chunk: index of the chunk.
        seconds: duration once it begins.
    """

    owner: Owner
    chunk: int
    seconds: float


class Station(Generic[Owner]):
    """A queue of jobs, the first of which is under way."""

    def __init__(self) -> None:
        """Start without jobs."""
        self.ends_s = math.inf
        self._jobs: deque[Job[Owner]] = deque()

    def __len__(self) -> int:
        """Number of jobs under way and waiting."""
        return len(self._jobs)

    def add(self, job: Job[Owner], now_s: float) -> None:
        """Append a job; it begins at once if there is no other."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self.ends_s = now_s + job.seconds

    def began_s(self, owner: Owner) -> float | None:
        """When the job under way began; None if it is not this owner's."""
        if not self._jobs or self._jobs[0].owner is not owner:
            return None
        return self.ends_s - self._jobs[0].seconds

    def finished(self, now_s: float) -> Job[Owner] | None:
        """Remove and return the job that has ended, and begin the next; None if none has."""
        if self.ends_s > now_s:
            return None
        done = self._jobs.popleft()
        self.ends_s = now_s + self._jobs[0].seconds if self._jobs else math.inf
        return done
