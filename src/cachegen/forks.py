"""What a forked child must not inherit: threads, sockets, locks that some thread may hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Thing = TypeVar("Thing")
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


# Forks are counted from the import on, the one thing done there: a process id would tell processes
# apart without, but a grandchild may get that of an ancestor that has ended.
os.register_at_fork(after_in_child=_count_fork)


def num_forks() -> int:
    """How many forks lie between this process and the one that imported this module first."""
    return _forks


class PerProcess(Generic[Thing]):
    """One thing of each process: a forked child makes its own when it asks for it.

    What it inherited stays where it is, since a finaliser might wait for a thread or a lock.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        """Nothing is made before it is asked for."""
        self._make = make
        self._made: dict[int, _Made[Thing]] = {}

    def __call__(self) -> Thing:
        """This process's own, made once for all of its threads."""
        own = self._made.get(_forks) or self._made.setdefault(_forks, _Made())
        with own.lock:
            if not own.things:
                own.things.append(self._make())
            return own.things[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Made(Generic[Thing]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    things: list[Thing] = field(default_factory=list)
