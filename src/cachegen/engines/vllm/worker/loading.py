"""Loads of a worker: each in a thread, straight into blocks, ended where it does not pay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from cachegen.bitstream.identity import PrefixKey, tokens_from_bytes
from cachegen.codec.levels import EXACT_LEVELS
from cachegen.codec.profile import Profile
from cachegen.contexts.objects import Profiles
from cachegen.engines.vllm.config import ConnectorConfig
from cachegen.engines.vllm.jobs import BlockIds, LoadJob
from cachegen.engines.vllm.layout.paged import PagedCache
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.threads import start_thread
from cachegen.engines.vllm.worker.pages import Pages
from cachegen.engines.vllm.worker.worth import WhileItPays
from cachegen.errors import LoadCancelled
from cachegen.loading.accelerator import synchronize
from cachegen.loading.load import Reader, load
from cachegen.loading.result import LoadResult
from cachegen.policy.costs import PrefillCost
from cachegen.store import Store

# Until a prefill was measured, so that nobody waits for ever on a slow link: 3 times what 4,096
# tokens of SmolLM2-135M take vLLM on one core (benchmarks/vllm/ttft.py). The first load that is
# given up is computed, and measured. Other values were reasoned, not tried.
_UNKNOWN = PrefillCost(0.0, 0.01)


@dataclass(frozen=True, slots=True)
class Ended:
    """A load that has ended.

    Attributes:
        request_id: of the request that waits for it.
        stop: up to where everything is loaded.
        wanted: up to where it should be.
        blocks: of the request.
        was_ended: it came short since it was ended, not since something failed.
    """

    request_id: str
    stop: int
    wanted: int
    blocks: BlockIds
    was_ended: bool

    @property
    def is_whole(self) -> bool:
        """Whether everything is loaded."""
        return self.stop >= self.wanted

    def failed_blocks(self, block_tokens: int) -> set[int]:
        """The blocks of the first group that hold nothing."""
        last = -(-self.wanted // block_tokens)
        return set(self.blocks[0][self.stop // block_tokens : last]) if not self.is_whole else set()


@dataclass(slots=True, eq=False)
class _UnderWay:
    cancel: threading.Event = field(default_factory=threading.Event)
    why: str = ""

    def end(self, why: str) -> None:
        self.why = self.why or why
        self.cancel.set()


class Loader:
    """Loads jobs; what they end with is taken at the next step of the engine."""

    def __init__(
        self,
        store: Store,
        paged: PagedCache,
        config: ConnectorConfig,
        *,
        profile: Profile | None,
        has_windows: bool,
        prefill: Callable[[], PrefillCost | None],
        device: torch.device,
        counters: Counters,
        achieved: Callable[[int, float, bool], None],
        loaded: Callable[[], None],
    ) -> None:
        """Start without loads.

        Args:
            store: to load from.
            paged: to load into.
            config: of the connector.
            profile: of the model, if there is one at hand.
            has_windows: whether layers may be stored apart, or lack tokens that others have.
            prefill: what vLLM takes to compute tokens, once that is known.
            device: of the paged cache.
            counters: to count in.
            achieved: told of every load that was not dropped: bytes, seconds, whether it was whole.
            loaded: called after every load, in its thread.
        """
        self._store, self._paged, self._config = store, paged, config
        self._profile, self._prefill, self._device = profile, prefill, device
        self._has_windows = has_windows
        self._profiles = Profiles(store, profile)
        self._counters, self._achieved, self._loaded = counters, achieved, loaded
        self._changed = threading.Condition()
        self._under_way: dict[str, _UnderWay] = {}
        self._ended: list[Ended] = []

    @property
    def num_under_way(self) -> int:
        """Loads that have not ended."""
        return len(self._under_way)

    def start(self, job: LoadJob, key: PrefixKey) -> None:
        """Begin a load."""
        under_way = _UnderWay()
        with self._changed:
            self._under_way[job.request_id] = under_way
        try:
            start_thread(partial(self._work, job, key, under_way), name="cachegen-vllm-load")
        except Exception:  # no thread to be had: vLLM computes it, and must be told
            self._counters.add("load_failures", label="thread")
            self._settle(Ended(job.request_id, job.start, job.stop, job.blocks, was_ended=False))

    def drop(self, request_id: str) -> None:
        """End a load that nobody needs any more; it is still told as ended."""
        under_way = self._under_way.get(request_id)
        if under_way is not None:
            under_way.end("aborted")

    def take_ended(self, *, wait_s: float = 0.0) -> list[Ended]:
        """What has ended since the last call; waits for the first if nothing has."""
        with self._changed:
            if wait_s and self._under_way and not self._ended:
                self._changed.wait(wait_s)
            ended, self._ended = self._ended, []
        return ended

    def end_all(self) -> None:
        """End all loads."""
        for under_way in list(self._under_way.values()):
            under_way.end("shut down")

    def _work(self, job: LoadJob, key: PrefixKey, under_way: _UnderWay) -> None:
        pages = Pages(self._paged, job.blocks, start=job.start, stop=job.stop)
        # Of a load that was ended, it is not known which levels it had.
        limit, began_s = job.start if self._config.is_lossless else job.stop, time.perf_counter()
        size_bytes = 0
        try:
            result = self._load(job, key, pages, under_way)
            limit = self._limit(result, job)
            self._count(result, job)
            size_bytes = result.size_bytes
            if self._has_windows:
                pages.place_all(result.kv)
        except LoadCancelled:
            self._counters.add("load_failures", label=under_way.why or "cancelled")
        except Exception as error:  # vLLM computes what is missing, whatever the reason
            self._counters.add("load_failures", label=type(error).__name__)
        finally:
            stop = self._settled(pages, limit, job)
            if stop < job.stop:  # a profile may have failed, and may come next time
                self._profiles = Profiles(self._store, self._profile)
            seconds = time.perf_counter() - began_s
            self._note(stop - job.start, job.start, seconds)
            if under_way.why != "aborted":
                self._achieved(size_bytes, seconds, stop >= job.stop)
            self._settle(Ended(job.request_id, stop, job.stop, job.blocks, bool(under_way.why)))

    def _load(self, job: LoadJob, key: PrefixKey, pages: Pages, under_way: _UnderWay) -> LoadResult:
        controller = WhileItPays(
            self._config.controller(),
            self._prefill() or _UNKNOWN,
            partial(under_way.end, "trial" if job.is_trial else "too slow"),
            start=job.start,
            is_trial=job.is_trial,
        )
        return load(
            tokens_from_bytes(job.tokens),
            store=self._store,
            profiles=self._profiles,
            controller=controller,
            slo_s=job.slo_s,
            reader=self._reader(job, pages),
            stall_s=self._config.stall_s,
            cancel=under_way.cancel,
            fingerprint=key.fingerprint,
            salt=key.salt,
            extra=key.extra,
            exact=not self._config.accepts_inexact,
        )

    def _settled(self, pages: Pages, limit: int, job: LoadJob) -> int:
        """Up to where tokens are there and may be used, once the device has them."""
        stop = max(min(pages.close(), limit), job.start)
        try:
            synchronize(self._device)
        except Exception:  # a device that fails has more to say to vLLM than to this load
            stop = job.start
        return stop

    def _reader(self, job: LoadJob, pages: Pages) -> Reader:
        """Chunks go to their blocks as they come, unless windows show only at the end."""
        if not self._has_windows:
            return Reader(self._device, start=job.start, assembly=lambda *_: pages)
        complete = not any(self._paged.windows)
        return Reader(self._device, start=job.start, complete=complete)

    def _note(self, num_tokens: int, past: int, seconds: float) -> None:
        self._counters.add("tokens_loaded", num_tokens)
        self._counters.add("load_seconds", seconds)
        prefill = self._prefill()
        if prefill is not None:
            saved_s = prefill.seconds(num_tokens, past=past)
            self._counters.add("prefill_seconds_saved", saved_s)

    def _limit(self, result: LoadResult, job: LoadJob) -> int:
        """Where tokens end that may be used: a lossy level may have come in place of an exact."""
        if not self._config.is_lossless:
            return job.stop
        new = (chunk for chunk in result.chunks if chunk.stop > job.start and chunk.level)
        return min((c.start for c in new if c.level not in EXACT_LEVELS), default=job.stop)

    def _count(self, result: LoadResult, job: LoadJob) -> None:
        add = self._counters.add
        add("loads")
        add("bytes_loaded", result.size_bytes)
        add("lookup_seconds", result.lookup_s)
        add("fetch_seconds", result.fetch_s)
        add("decode_seconds", result.decode_s)
        for chunk in result.chunks:
            if chunk.level is not None and chunk.stop > job.start:
                add("chunks_loaded", label=chunk.level)
            elif chunk.reason:
                add("load_failures", label=chunk.reason.partition(": ")[2].partition(":")[0])

    def _settle(self, ended: Ended) -> None:
        try:
            self._loaded()
        finally:
            with self._changed:
                del self._under_way[ended.request_id]
                self._ended.append(ended)
                self._changed.notify_all()
