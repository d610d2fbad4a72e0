"""The queue at a model that several loads use, one chunk at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_POLL_S = 0.05
_POLITE_S = 0.005


class ModelQueue:
    """A model that several loads use, one chunk at a time.

    A load takes it where it is free, and lets others go first after it had it; where there is no
    other way to have a chunk it queues.
    """

    def __init__(self) -> None:
        """Nobody uses it."""
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()
        self._users: dict[object, Callable[[], None]] = {}
        self._last: tuple[object, float] = (None, 0.0)

    @property
    def users(self) -> int:
        """How many loads may want a turn."""
        return len(self._users)

    @contextmanager
    def using(self, user: object, wake: Callable[[], None]) -> Iterator[None]:
        """Be one of the users; ``wake`` tells that the model is free again."""
        with self._lock:
            self._users[user] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._users[user]

    def queue(self, user: object) -> Turn:
        """A turn, which comes after those who asked before."""
        with self._lock:
            return self._append(user)

    def take(self, user: object) -> Turn | None:
        """A turn that has come already; None where somebody has one, or others go first."""
        with self._lock:
            last, ended_s = self._last
            is_polite = last is not user or time.monotonic() - ended_s >= _POLITE_S
            if self._queue or not (is_polite or len(self._users) < 2):
                return None
            return self._append(user)

    def end(self, turn: Turn) -> None:
        """Give up a turn, whether it has come or not; once is enough."""
        with self._lock:
            if turn not in self._queue:
                return
            if self._queue[0] is turn and turn.was_used:
                self._last = (turn.user, time.monotonic())
            self._queue.remove(turn)
            if self._queue:
                self._queue[0].come.set()
            wakers = list(self._users.values()) if turn.was_used else []
        for wake in wakers:
            wake()

    def _append(self, user: object) -> Turn:
        turn = Turn(user)
        self._queue.append(turn)
        if self._queue[0] is turn:
            turn.come.set()
        return turn


@dataclass(slots=True, eq=False)
class Turn:
    """A place in the queue.

    Attributes:
        user: whose.
        come: whether it has come.
        was_used: whether the model was used in it.
    """

    user: object
    come: threading.Event = field(default_factory=threading.Event)
    was_used: bool = False

    def wait(self, is_given_up: Callable[[], bool]) -> bool:
        """Wait until it has come; False where it is given up before."""
        while not self.come.wait(_POLL_S):
            if is_given_up():
                return False
        self.was_used = not is_given_up()
        return self.was_used
