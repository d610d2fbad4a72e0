"""Numbers that add up, counted by several threads and taken by one."""

from __future__ import annotations

import threading

Counts = dict[str, float]


class Counters:
    """Sums by name; a name may have one label, as in ``misses:late``."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._lock = threading.Lock()
        self._counts: Counts = {}
        self._before: Counts = {}

    def add(self, name: str, value: float = 1, *, label: str = "") -> None:
        """Add to a sum."""
        key = f"{name}:{label}" if label else name
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + value

    def take(self) -> Counts:
        """All sums since the last call."""
        with self._lock:
            taken, self._counts = self._counts, {}
            self._before = add_up(self._before, taken) if taken else self._before
        return taken

    def totals(self) -> Counts:
        """All sums from the beginning."""
        with self._lock:
            return add_up(self._before, self._counts)


def add_up(sums: Counts, more: Counts) -> Counts:
    """The sums of two takings."""
    names = sums.keys() | more.keys()
    return {name: sums.get(name, 0) + more.get(name, 0) for name in names}


def labelled(counts: Counts, name: str) -> Counts:
    """The sums of one name by label."""
    return {
        key.partition(":")[2]: value for key, value in counts.items() if key.startswith(f"{name}:")
    }
