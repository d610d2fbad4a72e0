"""The threads that decode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class DecoderThreads:
    """The threads that decode, for all loads, first come, first served.

    A chunk is decoded by two threads, so there are half as many of these as cores.
    """

    def __init__(self, num_threads: int) -> None:
        """Threads start when they are needed."""
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="cachegen-decode")
        self._lock = threading.Lock()
        self._num_threads = num_threads
        self._pending = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Do it as soon as those before it are done; it may not raise."""
        with self._lock:
            self._pending += 1
        self._pool.submit(work).add_done_callback(lambda _: self._done())

    def share(self, own: int) -> int:
        """How many take turns at a thread, for one who has so many chunks here."""
        with self._lock:
            return 1 + max(self._pending - own, 0) // self._num_threads

    def _done(self) -> None:
        with self._lock:
            self._pending -= 1
