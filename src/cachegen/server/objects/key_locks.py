"""A lock for every key, made at its first use and dropped after its last."""

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
    """Serialises changes of one object; changes of different objects go on side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, _Wanted] = {}

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Hold the lock of a key while the context lasts."""
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
