"""Ends what a thread waits for at a store, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from cachegen.errors import StoreError

# Some round trips of a distant store, after which its connection is kept. Arbitrary: 0.2 to 0.8 s,
# as whatever is given up ends within a second.
_SOON_S = 0.5

_HERE = threading.local()


@dataclass(slots=True, eq=False)
class Hangup:
    """The waits of some work at stores; `end` ends those under way, and all later ones at once.

    The threads that do the work name it with `heeded`; stores name their waits with
    `interruptible`.
    """

    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _waits: dict[object, Callable[[], None]] = field(init=False, default_factory=dict)
    _ended: bool = field(init=False, default=False)

    def end(self) -> None:
        """Shut every connection that is waited for."""
        with self._lock:
            self._ended = True
            waits = list(self._waits.values())
        for shut in waits:
            with suppress(Exception):  # it may have been closed meanwhile
                shut()

    def end_soon(self) -> None:
        """As `end`, but what is about to end by itself may: its connection can be used again."""
        with self._lock:
            is_waiting = bool(self._waits)
        if not is_waiting:
            self.end()
            return
        timer = threading.Timer(_SOON_S, self.end)
        timer.daemon = True
        timer.start()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let what this thread waits for meanwhile be ended."""
        before = current()
        _HERE.hangup = self
        try:
            yield
        finally:
            _HERE.hangup = before

    def _begin(self, shut: Callable[[], None]) -> object:
        """Note a wait.

        Raises:
            StoreError: the work was given up.
        """
        with self._lock:
            if self._ended:
                raise StoreError("expected work that somebody waits for; it was given up")
            name = object()
            self._waits[name] = shut
            return name

    def _done(self, name: object) -> None:
        with self._lock:
            del self._waits[name]


def current() -> Hangup | None:
    """What the waits of this thread belong to; None if nobody would end them."""
    return getattr(_HERE, "hangup", None)


@contextmanager
def interruptible(shut: Callable[[], None]) -> Iterator[None]:
    """Wait for a connection, which ``shut`` ends from any thread.

    Raises:
        StoreError: the work was given up before.
    """
    hangup = current()
    if hangup is None:
        yield
        return
    name = hangup._begin(shut)
    try:
        yield
    finally:
        hangup._done(name)
