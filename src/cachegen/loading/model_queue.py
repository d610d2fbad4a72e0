"""The queue of loads that share a model, one chunk at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# How late a load that is given up is noticed. Arbitrary: 0.01 to 0.2 s does.
_POLL_S = 0.05
# Time for a woken thread of another load to ask first. Arbitrary: 1 to 20 ms, far below a prefill.
_POLITE_S = 0.005


class ModelQueue:
    """A model shared by several loads, one chunk at a time.

    A load takes the model only if it is free, and lets others go first afterwards. It queues only
    for a chunk that it cannot load in any other way.
    """

    def __init__(self) -> None:
        """Start without loads."""
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()
        self._users: dict[object, Callable[[], None]] = {}
        self._last: tuple[object, float] = (None, 0.0)

    @property
    def users(self) -> int:
        """Number of loads that share the model."""
        return len(self._users)

    @contextmanager
    def using(self, user: object, wake: Callable[[], None]) -> Iterator[None]:
        """Count as a user meanwhile; ``wake`` is called when the model becomes free."""
        with self._lock:
            self._users[user] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._users[user]

    def queue(self, user: object) -> Turn:
        """Join the queue, and return the place in it."""
        with self._lock:
            return self._append(user)

    def take(self, user: object) -> Turn | None:
        """Take the model; None if it is in use, or if others go first."""
        with self._lock:
            last, ended_s = self._last
            is_polite = last is not user or time.monotonic() - ended_s >= _POLITE_S
            if self._queue or not (is_polite or len(self._users) < 2):
                return None
            return self._append(user)

    def end(self, turn: Turn) -> None:
        """Leave the queue, from its head or not; calling it again does nothing."""
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
        user: the load.
        come: set once it is at the head.
        was_used: whether the load used the model.
    """

    user: object
    come: threading.Event = field(default_factory=threading.Event)
    was_used: bool = False

    def wait(self, is_given_up: Callable[[], bool]) -> bool:
        """Wait for the head of the queue; False if the load is given up before."""
        while not self.come.wait(_POLL_S):
            if is_given_up():
                return False
        self.was_used = not is_given_up()
        return self.was_used
