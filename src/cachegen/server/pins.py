"""Which objects are needed right now, and so must stay."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Pin:
    """Somebody needs an object; `gone` tells that it was removed all the same."""

    gone: bool = False


class Pins:
    """The uses of all objects; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_key: defaultdict[str, set[Pin]] = defaultdict(set)

    @contextmanager
    def using(self, key: str | None) -> Iterator[Pin]:
        """A use of an object, or of none, while the context lasts."""
        use = Pin()
        if key is None:
            yield use
            return
        with self._lock:
            self._of_key[key].add(use)
        try:
            yield use
        finally:
            with self._lock:
                self._of_key[key].discard(use)
                if not self._of_key[key]:
                    del self._of_key[key]

    def has(self, key: str) -> bool:
        """Whether an object is in use."""
        with self._lock:
            return key in self._of_key

    def keys(self) -> set[str]:
        """The objects in use."""
        with self._lock:
            return set(self._of_key)

    def mark_gone(self, key: str) -> None:
        """Tell everybody who uses an object that it was removed."""
        with self._lock:
            for use in self._of_key.get(key, ()):
                use.gone = True
