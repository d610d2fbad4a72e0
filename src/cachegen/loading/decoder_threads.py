"""A pool of threads that decode, shared by all loads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class DecoderThreads:
    """The threads that decode for all loads, in the order of submission.

    Each decodes a chunk with two threads, so that there are half as many as cores.
    """

    def __init__(self, num_threads: int) -> None:
        """Set the number of threads; they start when needed."""
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="cachegen-decode")
        self._lock = threading.Lock()
        self._num_threads = num_threads
        self._pending = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run work, which may not raise, after all that was submitted before."""
        with self._lock:
            self._pending += 1
        self._pool.submit(work).add_done_callback(lambda _: self._done())

    def share(self, own: int) -> int:
        """How many chunks share a thread, for a load with ``own`` chunks submitted."""
        with self._lock:
            return 1 + max(self._pending - own, 0) // self._num_threads

    def _done(self) -> None:
        with self._lock:
            self._pending -= 1
