"""Preemption: blocks for the prompts of three of four requests, not for what they go on with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.vllm.engine.gate import LIMIT_S, Gate
from tests.engines.vllm.engine.served import PATIENT, Served, served
from tests.engines.vllm.engine.tiny import prompt

PROMPTS = [prompt(500, seed) for seed in range(1, 5)]
NUM_BLOCKS, NUM_NEW = 52, 130  # vLLM keeps one of them for itself
OPTIONS = {
    "dtype": "float32",
    "block_size": 32,
    "num_gpu_blocks_override": NUM_BLOCKS,
    "max_model_len": 640,
}
EXTRA = {"level": "raw", "chunk_tokens": 128, "stall_s": LIMIT_S, **PATIENT}


@pytest.fixture(scope="module")
def truth(model: str) -> list[list[int]]:
    with served(model, **OPTIONS) as engine:
        return [engine([tokens], max_tokens=NUM_NEW)[0] for tokens in PROMPTS]


@pytest.fixture(scope="module")
def engine(model: str, truth, tmp_path_factory) -> Iterator[Served]:
    """An engine with all prompts stored."""
    extra = {"store": str(tmp_path_factory.mktemp("contexts")), **EXTRA}
    with served(model, extra, **OPTIONS) as engine:
        assert [engine([tokens], max_tokens=NUM_NEW)[0] for tokens in PROMPTS] == truth
        engine.settle()
        yield engine


@pytest.fixture
def preempted(engine: Served, monkeypatch) -> list[str]:
    """Requests, as they are preempted; nothing is cached or counted yet."""
    engine.forget()
    engine.counts()
    found, preempt = [], engine.scheduler._preempt_request

    def noted(request, *args, **options) -> None:
        found.append(request.request_id)
        preempt(request, *args, **options)

    monkeypatch.setattr(engine.scheduler, "_preempt_request", noted)
    return found


def num_free(engine: Served) -> int:
    return engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()


def test_requests_are_preempted_and_end_as_they_should(engine: Served, truth, preempted) -> None:
    assert engine(PROMPTS, max_tokens=NUM_NEW) == truth
    assert preempted and engine.counts()["hits"] >= 4
    assert num_free(engine) == NUM_BLOCKS - 1


def test_others_are_preempted_while_one_loads(
    engine: Served, truth, preempted, monkeypatch
) -> None:
    from vllm import SamplingParams

    gate = Gate(engine.loader._store)
    monkeypatch.setattr(engine.loader, "_store", gate)
    how = SamplingParams(temperature=0, max_tokens=NUM_NEW, ignore_eos=True, detokenize=False)
    asked = engine.llm.llm_engine
    requests = engine.scheduler.requests
    try:
        asked.add_request("0", {"prompt_token_ids": PROMPTS[0]}, how)
        while not any(each.status.name == "WAITING_FOR_REMOTE_KVS" for each in requests.values()):
            asked.step()
        (loading,) = requests
        # These find nothing, and are computed.
        for name, tokens in enumerate(PROMPTS[1:], 1):
            asked.add_request(str(name), {"prompt_token_ids": tokens, "cache_salt": "other"}, how)
        said = {}
        while not preempted:
            said |= texts(asked.step())
        assert loading not in preempted
        assert requests[loading].status.name == "WAITING_FOR_REMOTE_KVS"
        assert "0" not in said
    finally:
        gate.go.set()
    while asked.has_unfinished_requests():
        said |= texts(asked.step())
    assert [said[str(name)] for name in range(4)] == truth
    counts = engine.counts()
    assert counts["tokens_loaded"] >= 384 and "load_failures" not in " ".join(counts), counts
    assert num_free(engine) == NUM_BLOCKS - 1


def texts(outputs) -> dict[str, list[int]]:
    """Of requests that have ended."""
    return {out.request_id: out.outputs[0].token_ids for out in outputs if out.finished}
