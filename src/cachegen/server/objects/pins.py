"""Pins of objects: a pinned object is not evicted."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Pin:
    """One pin of an object; `gone` tells that the object was deleted nevertheless."""

    gone: bool = False


class Pins:
    """The pins of all objects; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_key: defaultdict[str, set[Pin]] = defaultdict(set)

    @contextmanager
    def using(self, key: str | None) -> Iterator[Pin]:
        """Pin an object while the context lasts; None pins nothing."""
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
        """Whether an object is pinned."""
        with self._lock:
            return key in self._of_key

    def keys(self) -> set[str]:
        """The keys of all pinned objects."""
        with self._lock:
            return set(self._of_key)

    def mark_gone(self, key: str) -> None:
        """Mark the pins of an object that is being removed."""
        with self._lock:
            for use in self._of_key.get(key, ()):
                use.gone = True
