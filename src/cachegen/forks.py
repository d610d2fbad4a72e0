"""Things that a forked child must not inherit: threads, sockets, locks held by other threads."""

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


# Forks are counted from the import of this module on. Process ids would not do: a grandchild may
# get the id of an ancestor that has ended.
os.register_at_fork(after_in_child=_count_fork)


def num_forks() -> int:
    """How many forks lie between this process and the one that imported this module first."""
    return _forks


class PerProcess(Generic[Thing]):
    """An object of each process: a forked child makes its own at its first use.

    The inherited one is kept, since its finaliser might wait for a thread or a lock.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        """Remember how to make the object; it is made at its first use."""
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
