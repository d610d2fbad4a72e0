"""What simultaneous loads of one process share: links, the decoder, models, measurements."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from cachegen.stream.cost_file import Measurements
from cachegen.stream.throughput import Throughput

_SAVE_EVERY_S = 10.0
_POLL_S = 0.05
_MAKING = threading.Lock()
_LINKS: dict[str, Link] = {}
_SAVED_S: dict[int, float] = {}


class Link:
    """The way to a store: one estimate of its throughput for all who use it.

    Times are of one monotonic clock, in seconds.
    """

    def __init__(self, prior_bytes_per_s: float | None = None) -> None:
        """Begin with the throughput known from earlier, if any."""
        self._throughput = Throughput(prior_bytes_per_s)
        self._lock = threading.Lock()
        self._transfers = 0

    def begin(self, now_s: float) -> None:
        """A transfer begins."""
        with self._lock:
            self._transfers += 1
            self._throughput.begin(now_s)

    def arrived(self, num_bytes: int, now_s: float) -> None:
        """Bytes arrived."""
        with self._lock:
            self._throughput.arrived(num_bytes, now_s)

    def end(self, now_s: float) -> None:
        """A transfer is over, whole or not."""
        with self._lock:
            self._transfers -= 1
            self._throughput.end(now_s)

    def share(self, now_s: float, *, active: bool) -> tuple[float | None, float | None]:
        """What one load may expect, and what it may count on, in bytes per second.

        ``active`` says whether that load has a transfer under way already.
        """
        with self._lock:
            expected = self._throughput.bytes_per_s(now_s)
            low = self._throughput.low_bytes_per_s(now_s)
            users = max(self._transfers + (not active), 1)
        return (
            None if expected is None else expected / users,
            None if low is None else low / users,
        )

    def known(self, now_s: float) -> tuple[float, float] | None:
        """Bytes per second and seconds to the first byte by now; None for nothing."""
        with self._lock:
            bytes_per_s = self._throughput.bytes_per_s(now_s)
            request_s = self._throughput.request_s
        return None if bytes_per_s is None else (bytes_per_s, request_s or 0.0)


class Turns:
    """A model that several loads use, one chunk at a time, in the order they asked."""

    def __init__(self) -> None:
        """Nobody uses it."""
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()
        self._users = 0

    @property
    def users(self) -> int:
        """How many loads may want a turn."""
        return self._users

    @contextmanager
    def using(self) -> Iterator[None]:
        """Be one of the users."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def queue(self) -> Turn:
        """A turn, which comes after those who asked before."""
        with self._lock:
            return self._append()

    def take(self) -> Turn | None:
        """A turn that has come already; None where somebody has one."""
        with self._lock:
            return None if self._queue else self._append()

    def end(self, turn: Turn) -> None:
        """Give up a turn, whether it has come or not; once is enough."""
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
            if self._queue:
                self._queue[0].come.set()

    def _append(self) -> Turn:
        turn = Turn()
        self._queue.append(turn)
        if self._queue[0] is turn:
            turn.come.set()
        return turn


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A place in the queue."""

    come: threading.Event = field(default_factory=threading.Event)

    def wait(self, is_given_up: Callable[[], bool]) -> bool:
        """Wait until it has come; False where it is given up before."""
        while not self.come.wait(_POLL_S):
            if is_given_up():
                return False
        return True


@functools.cache
def measurements_of(fingerprint: bytes, device: str) -> Measurements:
    """What this process knows of a model on a device."""
    return Measurements.read(fingerprint, device)


def link_to(url: str, known: Measurements) -> Link:
    """The one link of this process to a store of this name."""
    with _MAKING:
        if url not in _LINKS:
            _LINKS[url] = Link(known.throughput(url))
        return _LINKS[url]


def remember(known: Measurements, url: str) -> None:
    """Keep what a load has taught, for the next one and, every few seconds, on disk.

    The costs are fitted here, since they are asked for when a load is in a hurry.
    """
    link = link_to(url, known).known(time.perf_counter())
    if link is not None:
        known.add_link(url, *link)
    known.costs(url)
    with _MAKING:
        last_s = _SAVED_S.get(id(known), -math.inf)
        if time.monotonic() - last_s < _SAVE_EVERY_S:
            return
        _SAVED_S[id(known)] = time.monotonic()
    known.save()


@functools.cache
def turns_at(fingerprint: bytes, device: str) -> Turns:
    """The one queue of this process for a model on a device."""
    return Turns()


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


@functools.cache
def decoder() -> DecoderThreads:
    """The one of this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return DecoderThreads(max((cores or 1) // 2, 1))
