"""A lock for every key, made when it is wanted and forgotten when nobody wants it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Wanted:
    lock: threading.RLock = field(default_factory=threading.RLock)
    count: int = 0


class KeyLocks:
    """Makes changes of one object take turns, and lets those of others go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Nobody else holds this key while the context lasts."""
        with self._lock:
            wanted = self._wanted.setdefault(key, _Wanted())
            wanted.count += 1
        try:
            with wanted.lock:
                yield
        finally:
            with self._lock:
                wanted.count -= 1
                if not wanted.count:
                    del self._wanted[key]
