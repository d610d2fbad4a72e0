"""Downloads of objects, each in its own thread and shared by all loads that want the object."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cachegen.bitstream.manifest import StoredObject
from cachegen.contexts.objects import check_digest
from cachegen.errors import BitstreamError, CacheGenError, StoreError
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import Store


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
        download without listeners is abandoned.
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
        self.forget(self)

    def _run(self) -> None:
        try:
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
        for part in self.store.get(self.stored.key):
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
