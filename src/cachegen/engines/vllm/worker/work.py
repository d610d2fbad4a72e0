"""The worker's side: copies blocks out to be saved, and lets loads write into blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial

import torch

from cachegen.bitstream.identity import PrefixKey
from cachegen.codec.levels import UNCALIBRATED_DEFAULT
from cachegen.codec.profile import Profile
from cachegen.engines.vllm.config import ConnectorConfig
from cachegen.engines.vllm.costs import CostBook, Learned, Prefill
from cachegen.engines.vllm.identity.model import ModelIdentity
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.jobs import LoadJob, Report, SaveJob, Step
from cachegen.engines.vllm.layout.paged import PagedCache
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.threads import on_any_core, start_thread
from cachegen.engines.vllm.worker.loading import Ended, Loader
from cachegen.engines.vllm.worker.saving import Saver, SaveSettings
from cachegen.engines.vllm.worker.spare_time import SpareTime
from cachegen.engines.vllm.worker.warming import warm_up
from cachegen.store import Store

# An engine that computes nothing comes back at once; it waits this long for a load to end.
# Arbitrary: 0.5 to 5 ms do.
_IDLE_S = 0.002
# A fit takes some milliseconds. Arbitrary: 0.02 to 1 s do.
_FIT_EVERY_S = 0.1


class Work:
    """Everything that the connector does in a worker's process."""

    def __init__(
        self,
        config: ConnectorConfig,
        store: Store,
        identity: ModelIdentity,
        *,
        profile: Profile | None,
        ranks: tuple[int, int],
        paged: PagedCache,
        device: torch.device,
        counters: Counters,
    ) -> None:
        """Start threads; nothing is under way.

        Args:
            config: of the connector.
            store: of contexts.
            identity: of the model.
            profile: of the model, if there is one at hand.
            ranks: of this worker: tensor-parallel, pipeline-parallel.
            paged: its cache.
            device: of the cache.
            counters: to count in.
        """
        self._identity, self._ranks, self._paged = identity, ranks, paged
        self._counters, self._device = counters, device
        # The decoder's threads are counted when the first of what loads share is made.
        self._book = on_any_core(
            lambda: CostBook(store, self._key_of(None).fingerprint, str(device))
        )
        is_whole = identity.pp_size == 1
        rope = identity.rope if is_whole else None
        windows = (identity.windows if is_whole else ()) or paged.windows
        is_plain = len({spec.group for spec in paged.specs}) == 1 and not any(paged.windows)
        self._tells_blocks = is_plain
        default = UNCALIBRATED_DEFAULT if profile is None else profile.default_level
        levels = config.stored_levels(default)
        self._spare_time = SpareTime()
        self._saver = Saver(
            store,
            SaveSettings(profile, rope, levels, config.chunk_tokens, windows),
            max_bytes=config.save_queue_bytes,
            counters=counters,
            spare_time=self._spare_time,
        )
        self._loader = Loader(
            store,
            paged,
            config,
            profile=profile,
            has_windows=any(windows),
            prefill=lambda: self._book.learned().costs.prefill,
            device=device,
            counters=counters,
            achieved=lambda size, seconds, is_whole: self._book.add_load(
                size, seconds, is_whole=is_whole
            ),
            loaded=lambda: self._is_stale.set(),
        )
        geometry = paged.geometry
        self._token_bytes = geometry.values_per_token * geometry.dtype.itemsize
        self._drain_s = config.drain_s
        self._news: Learned | None = None
        self._is_stale, self._has_ended = threading.Event(), threading.Event()
        start_thread(self._keep_learning, name="cachegen-vllm-costs")
        level = config.level or default
        start_thread(
            partial(warm_up, geometry, profile=profile, rope=rope, level=level),
            name="cachegen-vllm-warm",
        )
        self._short: list[Ended] = []
        self._failed_blocks: set[int] = set()
        self._timed: tuple[Prefill, float] | None = None
        self._is_idle = False

    def begin_step(self, step: Step) -> None:
        """A step begins."""
        self._spare_time.step_began()
        self._is_idle = step.is_idle
        self._timed = (step.prefill, time.perf_counter()) if step.prefill else None

    def start_loads(self, step: Step) -> None:
        """Begin the step's loads, and end those that nobody needs."""
        for request_id in step.dropped:
            self._loader.drop(request_id)
        for job in step.loads:
            self._loader.start(job, self._key_of(job))

    def save(self, step: Step) -> None:
        """Copy out what the step has computed; the model has ended."""
        if self._timed is not None and self._device.type == "cpu":
            prefill, began_s = self._timed
            self._book.add_prefill(prefill, time.perf_counter() - began_s)
            self._timed = None
            self._is_stale.set()
        for job in step.saves:
            self._saver.offer(
                job,
                self._key_of(job),
                self._token_bytes * (job.stop - job.start),
                partial(self._paged.read, job.blocks, start=job.start, stop=job.stop),
            )

    def finished(self, gone: set[str]) -> set[str]:
        """The requests whose loads have ended; ``gone`` are those that have ended themselves."""
        self._spare_time.step_ended()
        for request_id in gone:
            self._saver.forget(request_id)
        ended = self._loader.take_ended(wait_s=_IDLE_S if self._is_idle else 0.0)
        for load in ended:
            if not load.is_whole:
                self._short.append(load)
                if self._tells_blocks:
                    size = self._paged.specs[0].block_tokens
                    self._failed_blocks |= load.failed_blocks(size)
        return {load.request_id for load in ended}

    def failed(self) -> set[str]:
        """Of what `finished` told last, the requests that must be computed as a whole.

        Blocks of several groups cannot be told apart by their ids, and behind a window it is not
        enough to compute from the first missing block on.
        """
        return set() if self._tells_blocks else {load.request_id for load in self._short}

    def take_failed_blocks(self) -> set[int]:
        """Blocks that hold nothing, though they were to be loaded."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def report(self) -> Report | None:
        """What the scheduler's side should know."""
        short, self._short = self._short, []
        news, self._news = self._news, None
        saved, unsaved = self._saver.take_done()
        report = Report(
            short=tuple(load.request_id for load in short),
            failed=tuple(load.request_id for load in short if not load.was_ended),
            saved=saved,
            unsaved=unsaved,
            learned=news,
        )
        return None if report.is_empty else report

    def learned(self) -> Learned:
        """Costs as they are known now."""
        return self._book.learned()

    def shut_down(self) -> None:
        """End loads, and wait for saves for a while; threads end, and let go of the cache."""
        self._loader.end_all()
        self._saver.drain(self._drain_s)
        self._book.save()
        self._has_ended.set()
        self._is_stale.set()

    def _keep_learning(self) -> None:
        """Fit costs to new samples, which takes longer than a step should."""
        while True:
            self._is_stale.wait()
            self._is_stale.clear()
            if self._has_ended.is_set():
                return
            self._news = self._book.learned()
            if self._book.has_news:
                self._book.save()
            time.sleep(_FIT_EVERY_S)

    def _key_of(self, job: LoadJob | SaveJob | None) -> PrefixKey:
        tp_rank, pp_rank = self._ranks
        identity = RequestIdentity() if job is None else job.identity
        return self._identity.prefix_key(identity, tp_rank=tp_rank, pp_rank=pp_rank)


def device_of(kv_caches: Mapping[str, torch.Tensor]) -> torch.device:
    """The device of a worker's cache."""
    return next(iter(kv_caches.values())).device
