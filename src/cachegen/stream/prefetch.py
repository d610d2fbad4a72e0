"""Objects fetched one ahead of their use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cachegen.bitstream.manifest import StoredObject
from cachegen.store import Store
from cachegen.stream.objects import fetch


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """An object, and how long it took to arrive."""

    data: bytes
    seconds: float


def fetch_timed(store: Store, stored: StoredObject) -> Fetched:
    """Fetch one object now; raises what `fetch` raises."""
    began_s = time.perf_counter()
    data = fetch(store, stored)
    return Fetched(data, time.perf_counter() - began_s)


def fetch_ahead(
    store: Store, objects: Iterable[StoredObject]
) -> Generator[Future[Fetched], None, None]:
    """The objects in order; while the caller works on one, a thread fetches the next."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="cachegen-fetch")
    pending: deque[Future[Fetched]] = deque()
    try:
        for stored in objects:
            pending.append(thread.submit(fetch_timed, store, stored))
            if len(pending) > 1:
                yield pending.popleft()
        yield from pending
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
