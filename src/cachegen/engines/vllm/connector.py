"""The connector that vLLM loads: it passes calls on, to one side or the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)
from vllm.logger import init_logger
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from cachegen.bitstream.identity import PrefixKey
from cachegen.codec.profile import Profile, read_profile, shipped_profile
from cachegen.engines.vllm.config import ConnectorConfig, read_config
from cachegen.engines.vllm.guard import guarded
from cachegen.engines.vllm.identity.model import ModelIdentity, model_identity, ranks
from cachegen.engines.vllm.identity.request import RequestIdentity, request_identity
from cachegen.engines.vllm.jobs import Step
from cachegen.engines.vllm.layout.register import check_groups, paged_cache
from cachegen.engines.vllm.metadata import Known, StepMetadata, WorkerMetadata
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.metrics.minutely import Minutely
from cachegen.engines.vllm.metrics.prometheus import ConnectorMetrics, ConnectorStats
from cachegen.engines.vllm.scheduler.grouping import Grouping, grouping_of
from cachegen.engines.vllm.scheduler.lookups import Lookups, LookupSettings, Question
from cachegen.engines.vllm.scheduler.scheduling import Scheduling
from cachegen.engines.vllm.tenants import of_connector
from cachegen.engines.vllm.worker.work import Work, device_of
from cachegen.errors import UnsupportedCache
from cachegen.store import shared_store

# Loggers outside of vLLM's tree are silent in its workers.
_LOG = init_logger("vllm.cachegen")


class CacheGenConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Saves prompts as vLLM computes them, and loads beginnings that are stored.

    Loads are asynchronous: a request waits for its load while others are computed. What cannot be
    had, or would come too late, vLLM computes. See `config.py` for the settings.
    """

    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        """Begin one side.

        Raises:
            ValueError: settings that do not exist, or do not fit vLLM's.
            UnsupportedCache: a model, or an option of vLLM, that cannot be saved or loaded.
            StoreError: the store cannot be opened.
        """
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = self._kv_transfer_config
        self._config = read_config(transfer.kv_connector_extra_config, role=transfer.kv_role)
        _refuse_sleep(vllm_config)
        specs = check_groups(kv_cache_config, vllm_config=vllm_config)
        grouping = grouping_of(specs, chunk_tokens=self._config.chunk_tokens)
        self._identity = model_identity(vllm_config)
        self._store = shared_store(self._config.store, create=True)
        self._profile = _profile_of(self._config, self._identity)
        self._counters = Counters()
        self._scheduling: Scheduling | None = None
        self._work: Work | None = None
        if role == KVConnectorRole.SCHEDULER:
            _warn_of_policy(transfer.kv_load_failure_policy)
            _tell_of_end(vllm_config, self._config)
            self._minutely = Minutely(lambda line: _LOG.info("CacheGen: %s", line))
            self._scheduling = self._begin_scheduling(grouping)

    def _begin_scheduling(self, grouping: Grouping) -> Scheduling:
        config = self._config
        settings = LookupSettings(
            self._store, self._profile, config.level, grouping.align_tokens, config.lookup_s
        )
        return Scheduling(
            config,
            Lookups(settings),
            grouping=grouping,
            caches_prefixes=bool(self._vllm_config.cache_config.enable_prefix_caching),
            counters=self._counters,
        )

    # The scheduler's side.

    @property
    def requires_kv_delivery(self) -> bool:
        """False: a save that is lost is a later miss."""
        return False

    @guarded(lambda: None, logger=_LOG)
    def on_new_request(self, request: Any) -> None:
        """Begin to look up its prompt."""
        assert self._scheduling is not None
        identity = self._identity_of(request)
        question, prompt = None, request.prompt_token_ids or ()
        if identity is not None:
            question = Question(prompt, self._keys_of(identity))
        self._scheduling.arrived(
            request.request_id,
            question,
            prompt_tokens=len(prompt),
            may_load=not request.skip_reading_prefix_cache,
            identity=identity,
        )

    @guarded(lambda: (0, False), logger=_LOG)
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """How many tokens will be loaded, always while others are computed; None for later."""
        assert self._scheduling is not None
        tokens = self._scheduling.ask(request.request_id, num_computed_tokens)
        return tokens, bool(tokens)

    @guarded(lambda: None, logger=_LOG)
    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan a load into these blocks."""
        assert self._scheduling is not None
        ids = tuple(tuple(group) for group in blocks.get_block_ids()) if num_external_tokens else ()
        self._scheduling.allocated(request.request_id, ids, num_external_tokens)

    @guarded(StepMetadata, logger=_LOG)
    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        """The jobs of this step."""
        assert self._scheduling is not None
        return StepMetadata(self._scheduling.step(scheduler_output))

    @guarded(lambda: None, logger=_LOG)
    def update_connector_output(self, connector_output: Any) -> None:
        """Take what the workers tell."""
        assert self._scheduling is not None
        told = connector_output.kv_connector_worker_meta
        self._scheduling.ended(
            connector_output.finished_recving or (),
            told.report if isinstance(told, WorkerMetadata) else None,
        )
        stats = connector_output.kv_connector_stats
        self._minutely.add(None if stats is None else stats.data)

    @guarded(lambda: (False, None), logger=_LOG)
    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Forget a request; its blocks are needed no more."""
        assert self._scheduling is not None
        self._scheduling.finished(request.request_id)
        return False, None

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same for one group of layers."""
        finished: tuple[bool, dict[str, Any] | None]
        finished = self.request_finished_all_groups(request, (block_ids,))
        return finished

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Any]) -> None:
        """Take what workers know from earlier runs."""
        assert self._scheduling is not None
        known = [told.learned for told in metadata.values() if isinstance(told, Known)]
        if known:
            slowest = known[0]
            for learned in known[1:]:
                slowest = slowest.slower(learned)
            self._scheduling.learn(slowest)

    def reset_cache(self) -> bool:
        """Forget what was saved by this engine; what others see in the store stays."""
        if self._scheduling is not None:
            self._scheduling.reset()
        return True

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Take the paged cache.

        Raises:
            UnsupportedCache: its layout is not known.
        """
        paged = paged_cache(
            kv_caches, kv_cache_config=self._kv_cache_config, vllm_config=self._vllm_config
        )
        self._work = Work(
            self._config,
            self._store,
            self._identity,
            profile=self._profile,
            ranks=ranks(self._vllm_config),
            paged=paged,
            device=device_of(kv_caches),
            counters=self._counters,
        )

    def get_handshake_metadata(self) -> Known | None:
        """What earlier runs on this machine measured."""
        return None if self._work is None else Known(self._work.learned())

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        """A step begins."""
        super().bind_connector_metadata(connector_metadata)
        self._do(lambda work, step: work.begin_step(step))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Begin this step's loads."""
        self._do(lambda work, step: work.start_loads(step))

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: requests are computed once their loads have ended."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing: blocks are copied out once the step has ended."""

    def wait_for_save(self) -> None:
        """Copy out what this step has completed."""
        self._do(lambda work, step: work.save(step))

    @guarded(lambda: (None, None), logger=_LOG)
    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """The requests whose loads have ended."""
        return None, None if self._work is None else self._work.finished(finished_req_ids)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """The same, as vLLM asks for it."""
        _, received = self.get_finished(finished_req_ids)
        failed = set() if self._work is None else self._work.failed()
        return KVConnectorTransferResults(
            finished_recving=received or set(), failed_recving=failed & (received or set())
        )

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that hold nothing, though they were to be loaded."""
        return set() if self._work is None else self._work.take_failed_blocks()

    @guarded(lambda: None, logger=_LOG)
    def build_connector_worker_meta(self) -> WorkerMetadata | None:
        """What the scheduler's side should know."""
        report = None if self._work is None else self._work.report()
        return None if report is None else WorkerMetadata(report)

    def _do(self, what: Callable[[Work, Step], None]) -> None:
        meta = self._connector_metadata
        if self._work is None or not isinstance(meta, StepMetadata):
            return
        guarded(lambda: None, logger=_LOG)(what)(self._work, meta.step)

    # Both sides.

    @guarded(lambda: None, logger=_LOG)
    def get_kv_connector_stats(self) -> ConnectorStats | None:
        """What was counted since the last call."""
        counts = self._counters.take()
        if self._scheduling is not None:
            self._minutely.add(counts)
        return ConnectorStats(data=counts) if counts else None

    @guarded(lambda: None, logger=_LOG)
    def shutdown(self) -> None:
        """End loads; wait for saves for a while."""
        if self._scheduling is not None:
            self._scheduling.close()
        if self._work is not None:
            self._work.shut_down()
            self._work = None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats:
        """Counts that came from another process."""
        return ConnectorStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, *args: Any) -> KVConnectorPromMetrics:
        """Counters for ``/metrics``."""
        return ConnectorMetrics(*args)

    # Since vLLM 0.33.

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: Any) -> bool:
        """False: loads may write into blocks at any time, also into those that are unmapped."""
        return False

    def unregister_kv_caches(self) -> None:
        """End all loads: the cache goes away."""
        if self._work is not None:
            self._work.shut_down()

    def restore_kv_caches(self) -> None:
        """Nothing: `register_kv_caches` is called with the new cache."""

    # Who a request is.

    def _identity_of(self, request: Any) -> RequestIdentity | None:
        """None where nothing of the request may be saved or loaded."""
        if not request.prompt_token_ids or getattr(request, "resumable", False):
            return None
        try:
            identity = request_identity(request)
        except UnsupportedCache:
            self._counters.add("misses", label="unsupported")
            return None
        return of_connector(identity, self._config)

    def _keys_of(self, identity: RequestIdentity) -> tuple[PrefixKey, ...]:
        sizes = (self._identity.tp_size, self._identity.pp_size)
        exact = not self._config.accepts_inexact
        keys = (
            self._identity.prefix_key(identity, tp_rank=tp, pp_rank=pp)
            for pp in range(sizes[1])
            for tp in range(sizes[0])
        )
        return tuple(PrefixKey(k.fingerprint, k.salt, k.extra, exact=exact) for k in keys)


def _profile_of(config: ConnectorConfig, identity: ModelIdentity) -> Profile | None:
    """The user's profile, else the one that comes with the package, if it is this model's."""
    if config.profile is not None:
        return read_profile(Path(config.profile).read_bytes())
    return (
        shipped_profile(identity.fingerprint) if identity.tp_size * identity.pp_size == 1 else None
    )


def _refuse_sleep(vllm_config: Any) -> None:
    """0.32 does not ask `supports_sleep_mode`, and would unmap blocks that loads write into."""
    if vllm_config.model_config.enable_sleep_mode:
        raise UnsupportedCache(
            "sleep mode unmaps the KV cache while saves read it and loads write into it: expected "
            "vLLM without --enable-sleep-mode"
        )


def _warn_of_policy(policy: str) -> None:
    if policy == "fail":
        _LOG.warning(
            'kv_load_failure_policy is "fail": a request ends with an error where a chunk cannot '
            'be loaded. Set it to "recompute".'
        )


def _tell_of_end(vllm_config: Any, config: ConnectorConfig) -> None:
    """A server that is told to end kills its engine at once, unless a timeout says otherwise."""
    timeout_s = getattr(vllm_config, "shutdown_timeout", 0)
    if config.is_saving and timeout_s < config.drain_s:
        _LOG.info(
            "CacheGen: saves that wait when the server ends may be lost: --shutdown-timeout is "
            "%d s, drain_s %g s",
            timeout_s,
            config.drain_s,
        )
