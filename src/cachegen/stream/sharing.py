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
_POLITE_S = 0.005
_SILENCE_S = 10.0
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
        self._silent_since_s: float | None = None

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
        if bytes_per_s is None or request_s is None:
            return None
        return bytes_per_s, request_s

    def went_silent(self, now_s: float | None) -> None:
        """The store gave no answer in time; None: it did."""
        self._silent_since_s = now_s

    def was_silent(self, now_s: float) -> bool:
        """Whether that was a moment ago, and the last that was heard of it."""
        since_s = self._silent_since_s
        return since_s is not None and now_s - since_s < _SILENCE_S


class Turns:
    """A model that several loads use, one chunk at a time.

    A load takes it where it is free, and lets others go first after it had it; where there is no
    other way to have a chunk it queues.
    """

    def __init__(self) -> None:
        """Nobody uses it."""
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()
        self._users: dict[object, Callable[[], None]] = {}
        self._last: tuple[object, float] = (None, 0.0)

    @property
    def users(self) -> int:
        """How many loads may want a turn."""
        return len(self._users)

    @contextmanager
    def using(self, user: object, wake: Callable[[], None]) -> Iterator[None]:
        """Be one of the users; ``wake`` tells that the model is free again."""
        with self._lock:
            self._users[user] = wake
        try:
            yield
        finally:
            with self._lock:
                del self._users[user]

    def queue(self, user: object) -> Turn:
        """A turn, which comes after those who asked before."""
        with self._lock:
            return self._append(user)

    def take(self, user: object) -> Turn | None:
        """A turn that has come already; None where somebody has one, or others go first."""
        with self._lock:
            last, ended_s = self._last
            is_polite = last is not user or time.monotonic() - ended_s >= _POLITE_S
            if self._queue or not (is_polite or len(self._users) < 2):
                return None
            return self._append(user)

    def end(self, turn: Turn) -> None:
        """Give up a turn, whether it has come or not; once is enough."""
        with self._lock:
            if turn not in self._queue:
                return
            if self._queue[0] is turn and turn.was_used:
                self._last = (turn.user, time.monotonic())
            self._queue.remove(turn)
            if self._queue:
                self._queue[0].come.set()
            wakers = list(self._users.values()) if turn.was_used else []
        for wake in wakers:
            wake()

    def _append(self, user: object) -> Turn:
        turn = Turn(user)
        self._queue.append(turn)
        if self._queue[0] is turn:
            turn.come.set()
        return turn


@dataclass(slots=True, eq=False)
class Turn:
    """A place in the queue.

    Attributes:
        user: whose.
        come: whether it has come.
        was_used: whether the model was used in it.
    """

    user: object
    come: threading.Event = field(default_factory=threading.Event)
    was_used: bool = False

    def wait(self, is_given_up: Callable[[], bool]) -> bool:
        """Wait until it has come; False where it is given up before."""
        while not self.come.wait(_POLL_S):
            if is_given_up():
                return False
        self.was_used = not is_given_up()
        return self.was_used


def measurements_of(fingerprint: bytes, device: str) -> Measurements:
    """What this process knows of a model on a device."""
    with _MAKING:
        return _measurements(fingerprint, device)


@functools.cache
def _measurements(fingerprint: bytes, device: str) -> Measurements:
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


def turns_at(fingerprint: bytes, device: str) -> Turns:
    """The one of this process for a model on a device."""
    with _MAKING:
        return _turns(fingerprint, device)


@functools.cache
def _turns(fingerprint: bytes, device: str) -> Turns:
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


def decoder() -> DecoderThreads:
    """The one of this process."""
    with _MAKING:
        return _decoder()


@functools.cache
def _decoder() -> DecoderThreads:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return DecoderThreads(max((cores or 1) // 2, 1))
