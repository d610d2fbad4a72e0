"""Something that does one job after another, first come, first served: a model, a decoder."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Job(Generic[Owner]):
    """What is to be done for whom.

    Attributes:
        owner: whose it is.
        chunk: which chunk of the owner's.
        seconds: how long it takes once it begins.
    """

    owner: Owner
    chunk: int
    seconds: float


class Station(Generic[Owner]):
    """A queue of jobs, the first of which is under way."""

    def __init__(self) -> None:
        """Nothing to do."""
        self.ends_s = math.inf
        self._jobs: deque[Job[Owner]] = deque()

    def __len__(self) -> int:
        """Jobs under way and waiting."""
        return len(self._jobs)

    def add(self, job: Job[Owner], now_s: float) -> None:
        """Hand over a job."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self.ends_s = now_s + job.seconds

    def began_s(self, owner: Owner) -> float | None:
        """When the job under way began; None where it is not this owner's."""
        if not self._jobs or self._jobs[0].owner is not owner:
            return None
        return self.ends_s - self._jobs[0].seconds

    def finished(self, now_s: float) -> Job[Owner] | None:
        """The job that ends now, if any; the next one begins."""
        if self.ends_s > now_s:
            return None
        done = self._jobs.popleft()
        self.ends_s = now_s + self._jobs[0].seconds if self._jobs else math.inf
        return done
