"""Asynchronous scheduling: the next step is planned before the last one's tokens are known.

vLLM's CPU backend switches it off, and its model runner has no streams to copy tokens on. Here its
scheduler and its queue of two steps run, with that runner as it is.
"""

from __future__ import annotations

import pytest

from tests.engines.vllm.engine.served import PATIENT, served
from tests.engines.vllm.engine.tiny import prompt

PROMPTS = [prompt(500, seed) for seed in range(1, 4)]
OPTIONS = {"dtype": "float32", "block_size": 32, "max_num_batched_tokens": 640}
EXTRA = {"level": "raw", "chunk_tokens": 128, **PATIENT}


@pytest.fixture
def runs_ahead(monkeypatch) -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    update, begin = CpuPlatform.check_and_update_config, CPUModelRunner.__init__

    def keeping(vllm_config) -> None:
        wanted = vllm_config.scheduler_config.async_scheduling
        update(vllm_config)
        vllm_config.scheduler_config.async_scheduling = wanted

    def without_streams(runner, vllm_config, *args, **options) -> None:
        wanted = vllm_config.scheduler_config.async_scheduling
        vllm_config.scheduler_config.async_scheduling = False
        begin(runner, vllm_config, *args, **options)
        vllm_config.scheduler_config.async_scheduling = wanted

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(keeping))
    monkeypatch.setattr(CPUModelRunner, "__init__", without_streams)


def test_loads_and_their_failures(model: str, runs_ahead, tmp_path) -> None:
    with served(model, **OPTIONS, async_scheduling=False) as engine:
        truth = [engine([tokens], max_tokens=40)[0] for tokens in PROMPTS]
    extra = {"store": str(tmp_path), **EXTRA}
    with served(model, extra, **OPTIONS, async_scheduling=True) as engine:
        assert type(engine.scheduler).__name__ == "AsyncScheduler"
        assert engine.llm.llm_engine.engine_core.engine_core.batch_queue_size == 2
        assert engine(PROMPTS, max_tokens=40) == truth
        engine.settle()
        assert engine.counts()["tokens_saved"] == 3 * 384
        engine.forget()
        assert engine(PROMPTS, max_tokens=40) == truth
        assert engine.counts()["tokens_loaded"] == 3 * 384
        engine.forget()
        (lost, *_) = (path for path in tmp_path.rglob("chunks/*/128-256/**/raw"))
        lost.unlink()
        assert engine(PROMPTS, max_tokens=40) == truth
        counts = engine.counts()
        assert (counts["hits"], counts["tokens_loaded"]) == (3, 2 * 384 + 128), counts
        pool = engine.scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
