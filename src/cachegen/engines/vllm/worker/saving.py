"""Saves of a worker: copied out in the step, encoded and stored by one thread, never waited for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from cachegen.bitstream.identity import PrefixKey, tokens_from_bytes
from cachegen.codec.levels import EXACT_LEVELS
from cachegen.codec.profile import Profile
from cachegen.codec.rope import RopeMap
from cachegen.contexts.save import save
from cachegen.engines.vllm.jobs import SaveJob
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.threads import start_thread
from cachegen.engines.vllm.worker.spare_time import SpareTime
from cachegen.kvcache import KVCache
from cachegen.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Copied tokens that wait to be stored.

    Attributes:
        job: what they are.
        key: of their context.
        kv: the tokens.
        size_bytes: that they take.
        copied: passed by the device once they are there; None on a CPU, where they are at once.
    """

    job: SaveJob
    key: PrefixKey
    kv: KVCache
    size_bytes: int
    copied: torch.Event | None = None

    def on_cpu(self) -> KVCache:
        """The tokens in this machine's memory."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.kv.to("cpu")


@dataclass(frozen=True, slots=True)
class SaveSettings:
    """How contexts are saved, as for `cachegen.save`."""

    profile: Profile | None
    rope: RopeMap | None
    levels: Sequence[str] | None
    chunk_tokens: int
    windows: Sequence[int] = ()

    def levels_of(self, *, exact: bool) -> Sequence[str] | None:
        """What is stored of KV that is exact, or not; exact levels would promise too much of it."""
        if exact or self.levels is None:
            return self.levels
        return [name for name in self.levels if name not in EXACT_LEVELS]


@dataclass(frozen=True, slots=True)
class _Piecemeal:
    """A store that waits for spare time after all that it stores: chunks, and manifests."""

    store: Store
    spare_time: SpareTime

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, *args: Any, **options: Any) -> bool:
        """As the other."""
        is_new = self.store.put(*args, **options)
        self.spare_time.wait()
        return is_new


class Saver:
    """A queue of bounded bytes, and the thread that empties it.

    What does not fit is shed, and so is everything of the request behind it: it would have no
    stored context to continue.
    """

    def __init__(
        self,
        store: Store,
        settings: SaveSettings,
        *,
        max_bytes: int,
        counters: Counters,
        spare_time: SpareTime,
    ) -> None:
        """Start the thread."""
        self._store, self._settings = cast(Store, _Piecemeal(store, spare_time)), settings
        self._spare_time = spare_time
        self._max_bytes, self._counters = max_bytes, counters
        self._changed = threading.Condition()
        self._queue: deque[Waiting] = deque()
        self._bytes = 0
        self._broken: dict[str, int] = {}
        self._saved: list[bytes] = []
        self._unsaved: list[bytes] = []
        self._is_ending = False
        # Cores that vLLM leaves free where there is a connector are enough.
        self._thread = start_thread(self._work, name="cachegen-vllm-save", keeps_away=True)

    def offer(
        self, job: SaveJob, key: PrefixKey, size_bytes: int, copy: Callable[[], KVCache]
    ) -> None:
        """Copy tokens out if there is room for so many bytes; else shed them."""
        with self._changed:
            is_cut_off = job.start >= self._broken.get(job.request_id, job.stop)
            has_room = self._bytes + size_bytes <= self._max_bytes
            if is_cut_off or not has_room or self._is_ending:
                self._shed(job, "full" if not has_room else "prefix")
                return
            self._bytes += size_bytes
        kv = None
        try:
            kv = copy()
        finally:
            with self._changed:
                if kv is None or not kv.is_complete:
                    self._bytes -= size_bytes
                    self._shed(job, "copy" if kv is None else "window")
                else:
                    self._queue.append(Waiting(job, key, kv, size_bytes, _mark(kv)))
                    self._changed.notify_all()

    def forget(self, request_id: str) -> None:
        """Note that a request has ended."""
        with self._changed:
            self._broken.pop(request_id, None)

    def take_done(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The ids of chunks that were saved since the last call, and of those that were not."""
        with self._changed:
            saved, unsaved, self._saved, self._unsaved = self._saved, self._unsaved, [], []
        return tuple(saved), tuple(unsaved)

    def drain(self, seconds: float) -> None:
        """Take no more, and wait for what is there."""
        deadline_s = time.monotonic() + seconds
        self._spare_time.end()
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            while self._bytes and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _shed(self, job: SaveJob, reason: str) -> None:
        self._broken[job.request_id] = min(self._broken.get(job.request_id, job.start), job.start)
        self._unsaved += job.ids
        self._counters.add("saves_shed", label=reason)
        self._counters.add("tokens_shed", job.stop - job.start)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._is_ending:
                        return
                    self._spare_time.pause()
                    self._changed.wait()
            self._spare_time.wait()
            with self._changed:
                parts = self._next()
            try:
                self._save(parts)
                with self._changed:
                    self._saved += (name for part in parts for name in part.job.ids)
            except Exception as error:  # a store that fails costs the save, never the engine
                self._counters.add("save_failures", label=type(error).__name__)
                with self._changed:
                    for part in parts:
                        self._shed(part.job, "failed")
            finally:
                with self._changed:
                    self._bytes -= sum(part.size_bytes for part in parts)
                    self._changed.notify_all()

    def _next(self) -> list[Waiting]:
        """The first that waits, and all that continue it."""
        parts = [self._queue.popleft()]
        for waiting in list(self._queue):
            if _continues(waiting.job, parts[-1].job):
                parts.append(waiting)
                self._queue.remove(waiting)
        return parts

    def _save(self, parts: list[Waiting]) -> None:
        last, began_s = parts[-1], time.perf_counter()
        kv, settings = KVCache.concat([part.on_cpu() for part in parts]), self._settings
        manifest = save(
            kv,
            tokens=tokens_from_bytes(last.job.tokens),
            store=self._store,
            profile=settings.profile,
            rope=None if settings.profile else settings.rope,
            levels=settings.levels_of(exact=last.job.exact),
            chunk_tokens=settings.chunk_tokens,
            windows=settings.windows,
            fingerprint=last.key.fingerprint,
            salt=last.key.salt,
            extra=last.key.extra,
            exact=last.job.exact,
        )
        add = self._counters.add
        add("saves")
        add("save_seconds", time.perf_counter() - began_s)
        add("tokens_saved", kv.num_tokens)
        add("kv_bytes_saved", kv.size_bytes)
        new = [chunk for chunk in manifest.chunks if chunk.start >= kv.start]
        add("bytes_saved", sum(stored.size_bytes for chunk in new for stored in chunk.objects))


def _mark(kv: KVCache) -> torch.Event | None:
    """A place in the device's queue behind the copy. Not run on a GPU."""
    if kv.device.type == "cpu":
        return None
    event = torch.Event(kv.device)
    event.record()
    return event


def _continues(job: SaveJob, last: SaveJob) -> bool:
    """Whether both can be saved as one."""
    is_same = (job.request_id, job.exact) == (last.request_id, last.exact)
    return is_same and job.start == last.stop
