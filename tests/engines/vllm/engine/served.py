"""vLLM in this process: an engine with our connector, and what it says."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import pytest

from cachegen.engines.vllm import costs
from cachegen.engines.vllm.worker import loading
from cachegen.policy.costs import PrefillCost

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("CACHEGEN_CACHE_DIR", tempfile.mkdtemp(prefix="cachegen-test-"))

# On a busy machine a first lookup, with what it imports, may take longer than users would wait.
PATIENT = {"lookup_s": 60}


class Served:
    """An engine."""

    def __init__(self, model: str, extra: Mapping[str, Any] | None = None, **options: Any) -> None:
        """Start it; without ``extra`` there is no connector.

        Unless it ``learns`` what prefills cost, all that is stored is loaded: a tiny model computes
        sooner than it loads.
        """
        from vllm import LLM
        from vllm.config import KVTransferConfig

        self._patch = pytest.MonkeyPatch()
        learns = options.pop("learns", False)
        if not learns:
            _load_all(None, self._patch)
        role = options.pop("kv_role", "kv_both")
        policy = options.pop("kv_load_failure_policy", "recompute")
        transfer = None
        if extra is not None:
            transfer = KVTransferConfig(
                kv_connector="CacheGenConnector",
                kv_connector_module_path="cachegen.engines.vllm",
                kv_role=role,
                kv_load_failure_policy=policy,
                kv_connector_extra_config=dict(extra),
            )
        self._counted: dict[str, float] = {}
        try:
            self.llm = LLM(
                model=model,
                **{
                    "skip_tokenizer_init": True,
                    "dtype": "bfloat16",
                    "enforce_eager": True,
                    "max_model_len": 2048,
                    "disable_log_stats": True,
                    "kv_transfer_config": transfer,
                    **options,
                },
            )
        except BaseException:
            self._patch.undo()
            raise
        if not learns and options.get("tensor_parallel_size", 1) > 1:
            self.llm.collective_rpc(_load_all)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int = 16,
        cache_salt: str | None = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """The tokens that it continues prompts with, greedily."""
        return [
            out.outputs[0].token_ids
            for out in self.run(prompts, max_tokens=max_tokens, cache_salt=cache_salt, **sampling)
        ]

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int = 16,
        cache_salt: str | None = None,
        **sampling: Any,
    ) -> list[Any]:
        """The same with all that vLLM says."""
        from vllm import SamplingParams

        asked = [
            {"prompt_token_ids": list(tokens), **({"cache_salt": cache_salt} if cache_salt else {})}
            for tokens in prompts
        ]
        how = SamplingParams(
            temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, **sampling
        )
        return self.llm.generate(asked, how, use_tqdm=False)

    @property
    def scheduler(self) -> Any:
        """vLLM's scheduler, in this process."""
        return self.llm.llm_engine.engine_core.engine_core.scheduler

    def counts(self) -> dict[str, float]:
        """What the connector has counted, on both sides, since the last call."""
        from cachegen.engines.vllm.metrics.counters import add_up

        ours = self.scheduler.connector._counters.totals()
        sums = reduce(add_up, self.llm.collective_rpc(_totals), ours)
        new = {name: value - self._counted.get(name, 0) for name, value in sums.items()}
        self._counted = sums
        return {name: value for name, value in new.items() if value}

    @property
    def loader(self) -> Any:
        """The connector's loads, in this process."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group()._work._loader

    def settle(self) -> None:
        """Wait until everything that was computed is saved."""
        self.llm.collective_rpc(_settle)

    def forget(self) -> None:
        """Let vLLM forget its own cached blocks."""
        assert self.llm.reset_prefix_cache()

    def close(self) -> None:
        """End it."""
        self._patch.undo()
        self.llm.llm_engine.engine_core.shutdown()


# What follows runs in workers: in this process, or in one for each rank.


def _load_all(worker: Any, patch: pytest.MonkeyPatch | None = None) -> None:
    patch = patch or pytest.MonkeyPatch()
    patch.setattr(costs.CostBook, "learned", lambda self: costs.Learned())
    patch.setattr(loading, "_UNKNOWN", PrefillCost(0.0, 1.0))


def _totals(worker: Any) -> dict[str, float]:
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return get_kv_transfer_group()._counters.totals()


def _settle(worker: Any) -> None:
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    saver = get_kv_transfer_group()._work._saver
    deadline_s = time.monotonic() + 300
    while saver._bytes:
        assert time.monotonic() < deadline_s, "saves take more than five minutes"
        time.sleep(0.01)


@contextmanager
def served(model: str, extra: Mapping[str, Any] | None = None, **options: Any) -> Iterator[Served]:
    engine = Served(model, extra, **options)
    try:
        yield engine
    finally:
        engine.close()
