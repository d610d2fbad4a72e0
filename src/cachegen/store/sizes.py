"""Lookups of stores that are asked for each key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from cachegen.store.protocol import current

# Arbitrary: 8 to 64 do; a lookup of so many keys takes about one round trip.
_THREADS = 16


def sizes(keys: Sequence[str], size: Callable[[str], int | None]) -> list[int | None]:
    """The size of each key's object, many asked for at once."""
    if len(keys) < 2:
        return [size(key) for key in keys]
    with ThreadPoolExecutor(min(_THREADS, len(keys))) as pool:
        return list(pool.map(_heeding(size), keys))


def _heeding(size: Callable[[str], int | None]) -> Callable[[str], int | None]:
    """The same for threads of a pool, whose waits end with those of this thread."""
    hangup = current()

    def heeding(key: str) -> int | None:
        with hangup.heeded() if hangup is not None else nullcontext():
            return size(key)

    return heeding
