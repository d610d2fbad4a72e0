"""The link: downloads, shared by all loads that want the object, and the transfers of one load."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cachegen.bitstream.manifest import StoredObject
from cachegen.contexts.objects import check_digest, closing_of
from cachegen.errors import BitstreamError, CacheGenError, StoreError, StoreTimeout
from cachegen.loading.decoding import Data, Objects
from cachegen.loading.ledger import Journal
from cachegen.loading.result import Span
from cachegen.policy.controller import LoadState, Option, Transfer
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import Store
from cachegen.store.protocol import Hangup

# A transfer that has come this slowly since it became the first, at the end of the silence that it
# is allowed twice, fails: GPRS was faster. A prefill makes more than the 5 kB of a token's chunk
# at `high` in 5 s on any machine. Arbitrary: 256 B/s to 4 KiB/s do.
_LEAST_BYTES_PER_S = 1 << 10


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """How far a download is; it has ended if there is data or an error.

    Attributes:
        num_bytes: received so far.
        data: the whole object, checked against the manifest.
        error: what ended the download before.
    """

    num_bytes: int
    data: memoryview | None = None
    error: CacheGenError | None = None


Listener = Callable[[Received], None]
Leave = Callable[[bool], None]
_Key = tuple[int, str, bytes]


class Downloads:
    """The downloads of a process: an object under way is not requested again."""

    def __init__(self) -> None:
        """Start without downloads."""
        self._lock = threading.Lock()
        self._running: dict[_Key, _Download] = {}

    def start(
        self, store: Store, stored: StoredObject, *, link: LinkEstimate, listener: Listener
    ) -> Leave:
        """Fetch an object, and report to ``listener`` until the returned function is called.

        Its argument says whether the download hangs: the next request then starts a new one. A
        download without listeners is abandoned, and its wait for the store is ended.
        """
        key = (id(store), stored.key, stored.sha256)
        with self._lock:
            download = self._running.get(key)
            is_new = download is None or not download.join(listener)
            if download is None or is_new:
                download = self._running[key] = _Download(store, stored, link, self._forget)
                download.join(listener)
        if is_new:
            download.start()

        def leave(hangs: bool) -> None:
            if hangs:
                self._forget(download)
            download.leave(listener)

        return leave

    def _forget(self, download: _Download) -> None:
        stored = download.stored
        key = (id(download.store), stored.key, stored.sha256)
        with self._lock:
            if self._running.get(key) is download:
                del self._running[key]


@dataclass(slots=True, eq=False)
class _Download:
    store: Store
    stored: StoredObject
    link: LinkEstimate
    forget: Callable[[_Download], None]
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _listeners: list[Listener] = field(init=False, default_factory=list)
    _num_bytes: int = field(init=False, default=0)
    _is_answered: bool = field(init=False, default=False)
    _is_over: bool = field(init=False, default=False)
    _hangup: Hangup = field(init=False, default_factory=Hangup)

    def start(self) -> None:
        """Start a daemon thread, since a dead server may block it for a while."""
        self.link.begin(time.perf_counter())
        try:
            threading.Thread(target=self._run, name="cachegen-fetch", daemon=True).start()
        except RuntimeError as error:
            self._finish(error=StoreError(f"{self.stored.key}: {error}"))

    def join(self, listener: Listener) -> bool:
        """Add a listener; False if the download is over."""
        with self._lock:
            if self._is_over:
                return False
            self._listeners.append(listener)
            if self._num_bytes:
                listener(Received(self._num_bytes))
            return True

    def leave(self, listener: Listener) -> None:
        """Remove a listener; without any the download is abandoned."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if self._listeners or not self._end():
                return
        self._hangup.end()
        self.forget(self)

    def _run(self) -> None:
        try:
            with self._hangup.heeded():
                data = self._fetch()
        except CacheGenError as error:
            self._finish(error=error)
        except Exception as error:  # a store's own mistake costs a chunk, not the load
            self._finish(error=StoreError(f"{self.stored.key}: {type(error).__name__}: {error}"))
        else:
            if data is not None:
                self._finish(data=data)

    def _fetch(self) -> memoryview | None:
        """Read the object into one buffer; None if the download was abandoned."""
        expected, digest = self.stored.size_bytes, hashlib.sha256()
        whole = np.empty(expected, dtype=np.uint8).data
        with closing_of(self.store.get(self.stored.key)) as parts:
            for part in parts:
                start, stop = self._num_bytes, self._num_bytes + len(part)
                if stop > expected:
                    self._num_bytes = stop
                    break
                digest.update(part)
                whole[start:stop] = part
                if not self._advance(len(part)):
                    return None
        if self._num_bytes != expected:
            raise BitstreamError(
                f"expected {expected} bytes, got {self._num_bytes}", field=self.stored.key
            )
        check_digest(digest.digest(), self.stored.sha256, field=self.stored.key)
        return whole.toreadonly()

    def _advance(self, num_bytes: int) -> bool:
        """Report received bytes; False if the download was abandoned."""
        with self._lock:
            if self._is_over:
                return False
            self.link.arrived(num_bytes, time.perf_counter(), first=not self._is_answered)
            self._is_answered = True
            self._num_bytes += num_bytes
            for listener in self._listeners:
                listener(Received(self._num_bytes))
            return True

    def _finish(
        self, *, data: memoryview | None = None, error: CacheGenError | None = None
    ) -> None:
        with self._lock:
            if not self._end():
                return
            for listener in self._listeners:
                listener(Received(self._num_bytes, data, error))
        self.forget(self)

    def _end(self) -> bool:
        """End the download, with the lock held; False if it is over already."""
        if self._is_over:
            return False
        self._is_over = True
        self.link.end(time.perf_counter(), answered=self._is_answered)
        return True


HANGS = StoreTimeout.__name__


@dataclass(slots=True, eq=False)
class _Objects:
    """Several objects fetched as one transfer, which fails with the first of them that fails."""

    objects: Objects
    heard_s: float
    first_s: float
    first_bytes: int = 0
    leaves: list[Leave] = field(default_factory=list)
    received: dict[int, Received] = field(default_factory=dict)

    def becomes_first(self, now_s: float) -> None:
        """Judge the transfer by what it does from now on: nothing is before it."""
        self.heard_s = self.first_s = now_s
        self.first_bytes = self.num_bytes

    def is_slow(self, now_s: float, *, stall_s: float) -> bool:
        """Whether it has come at no useful rate since it became the first."""
        came_bytes = self.num_bytes - self.first_bytes
        return now_s - self.first_s > 2 * stall_s + came_bytes / _LEAST_BYTES_PER_S

    @property
    def num_bytes(self) -> int:
        return sum(received.num_bytes for received in self.received.values())

    @property
    def data(self) -> Data | None:
        """The bytes of all objects, in the order requested; None while one is missing."""
        found = (self.received.get(number) for number in range(len(self.objects)))
        data = tuple(received.data for received in found if received and received.data is not None)
        return data if len(data) == len(self.objects) else None


class Fetching:
    """Starts and ends transfers, and records them in the load's state and journal."""

    def __init__(
        self,
        state: LoadState,
        store: Store,
        downloads: Downloads,
        link: LinkEstimate,
        journal: Journal,
        *,
        stall_s: float,
        post: Callable[[Callable[[], None]], None],
        fetched: Callable[[int, Objects, Data], None],
        failed: Callable[[int, CacheGenError, float], None],
    ) -> None:
        """Start without transfers.

        Args:
            state: of the load.
            store: to fetch from.
            downloads: of the process.
            link: estimate of the link to the store.
            journal: of the load.
            stall_s: seconds of silence after which a transfer fails.
            post: takes what the deciding thread is to do next, from any thread.
            fetched: is told the chunk, its objects and their bytes.
            failed: is told the chunk, why it failed, and when it was requested.
        """
        self._state, self._store, self._downloads, self._link = state, store, downloads, link
        self._journal, self._stall_s = journal, stall_s
        self._post, self._fetched, self._failed = post, fetched, failed
        self._under_way: dict[int, _Objects] = {}

    @property
    def num_objects(self) -> int:
        """Number of objects of the transfers under way."""
        return sum(len(under_way.objects) for under_way in self._under_way.values())

    def start(self, chunk: int, option: Option, objects: Sequence[StoredObject]) -> None:
        """Request the objects of a chunk."""
        now_s = self._journal.now_s()
        transfer, under_way = Transfer(chunk, option, now_s), _Objects(tuple(objects), now_s, now_s)
        self._under_way[chunk] = under_way
        self._state.transfers.append(transfer)
        for number, stored in enumerate(objects):
            leave = self._downloads.start(
                self._store,
                stored,
                link=self._link,
                listener=self._listener(transfer, number),
            )
            under_way.leaves.append(leave)

    def end(self, transfer: Transfer, outcome: str) -> None:
        """End a transfer, complete or not, and record its span."""
        now_s, transfers = self._journal.now_s(), self._state.transfers
        for leave in self._under_way.pop(transfer.chunk).leaves:
            leave(outcome == HANGS)
        was_first = transfers.index(transfer) == 0
        transfers.remove(transfer)
        if was_first and transfers:
            self._under_way[transfers[0].chunk].becomes_first(now_s)
        self._journal.spans.append(
            Span(
                "fetch",
                transfer.began_s,
                now_s,
                transfer.chunk,
                transfer.option.level,
                transfer.received_bytes,
                outcome,
            )
        )

    def abandon(self, first: int = 0) -> list[Transfer]:
        """End the transfers from index ``first`` on, and return them, the last one first."""
        abandoned = self._state.transfers[first:][::-1]
        for transfer in abandoned:
            self.end(transfer, "abandoned")
        return abandoned

    def end_stalled(self) -> None:
        """Let the first transfer fail with `StoreTimeout` if it is silent, or slow, for too long.

        Those requested ahead may be silent while the ones before them go on.
        """
        limit_s, now_s, transfer = self._stall_s, self._state.now_s, self._state.transfer
        if transfer is None:
            return
        under_way = self._under_way[transfer.chunk]
        if now_s - under_way.heard_s >= limit_s:
            self._fail(transfer, StoreTimeout(f"no bytes for {limit_s} s"))
        elif under_way.is_slow(now_s, stall_s=limit_s):
            came = f"{under_way.num_bytes} bytes in {now_s - under_way.first_s:.1f} s"
            least = f"expected {_LEAST_BYTES_PER_S} bytes a second"
            self._fail(transfer, StoreTimeout(f"{least}, got {came}"))

    def _listener(self, transfer: Transfer, number: int) -> Callable[[Received], None]:
        """Posts the news of an object, only the newest of those that were not heard yet.

        However small the pieces are, one piece of news waits.
        """
        newest: deque[Received] = deque(maxlen=1)
        changing = threading.Lock()

        def hear() -> None:
            with changing:
                received = newest.popleft()
            self._hear(transfer, number, received)

        def listen(received: Received) -> None:
            with changing:
                is_posted = bool(newest)
                newest.append(received)
            if not is_posted:
                self._post(hear)

        return listen

    def _hear(self, transfer: Transfer, number: int, received: Received) -> None:
        """Record what arrived of one of a transfer's objects; end it with the last one's end."""
        if transfer not in self._state.transfers:
            return
        under_way = self._under_way[transfer.chunk]
        if received.error is not None:
            self._fail(transfer, received.error)
            return
        under_way.received[number] = received
        transfer.received_bytes = under_way.num_bytes
        if received.data is None:
            under_way.heard_s = self._journal.now_s()
        elif (data := under_way.data) is not None:
            self.end(transfer, "done")
            self._fetched(transfer.chunk, under_way.objects, data)

    def _fail(self, transfer: Transfer, error: CacheGenError) -> None:
        self.end(transfer, type(error).__name__)
        self._failed(transfer.chunk, error, transfer.began_s)
