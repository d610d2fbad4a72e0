"""Engines with other options, each with a folder as store: cold, forgotten, warm, a chunk lost."""

from __future__ import annotations

import pytest

from tests.engines.vllm.engine.child import ask
from tests.engines.vllm.engine.served import PATIENT, served
from tests.engines.vllm.engine.tiny import prompt

PROMPTS = [prompt(500, seed) for seed in range(1, 5)]
EXTRA = {"level": "raw", "chunk_tokens": 128, **PATIENT}


@pytest.fixture(scope="module")
def truth(model: str) -> list[list[int]]:
    with served(model, dtype="float32") as engine:
        return [engine([tokens], max_tokens=40)[0] for tokens in PROMPTS]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {
                "block_size": 32,
                "max_num_batched_tokens": 160,
                "max_num_seqs": 4,
                "enable_prefix_caching": False,
            },
            id="blocks of 32, chunked prefill, no prefix caching",
        ),
        pytest.param({"block_size": 128}, id="blocks of 128"),
    ],
)
def test_options(model: str, truth, tmp_path, options) -> None:
    with served(model, {"store": str(tmp_path), **EXTRA}, dtype="float32", **options) as engine:
        is_caching = options.get("enable_prefix_caching", True)
        assert engine(PROMPTS, max_tokens=40) == truth
        engine.settle()
        assert engine.counts()["tokens_saved"] == 4 * 384
        if is_caching:
            engine.forget()
        assert engine(PROMPTS, max_tokens=40) == truth
        assert engine.counts()["tokens_loaded"] == 4 * 384
        if is_caching:
            engine.forget()
        lost = list(tmp_path.rglob("chunks/*/256-384/**/raw"))
        assert len(lost) == 4
        for path in lost:
            path.unlink()
        assert engine(PROMPTS, max_tokens=40) == truth
        counts = engine.counts()
        assert counts["hits"] == 4 and counts["tokens_loaded"] == 4 * 256, counts


def test_drafts_of_n_grams(model: str, truth, tmp_path) -> None:
    """In a process of its own: what drafts import, later engines of a process cannot bear."""
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}
    options = {"dtype": "float32", "speculative_config": drafts}
    asked = {"model": model, "prompts": PROMPTS[:2], "options": options, "max_tokens": 40}
    found = ask({**asked, "extra": {"store": str(tmp_path), **EXTRA}, "rounds": 2})
    assert found["texts"] == [*truth[:2], *truth[:2]]
    assert found["cached"] == [0, 0, 384, 384]
    assert found["counts"]["tokens_loaded"] == found["counts"]["tokens_saved"] == 2 * 384


def test_settings_are_checked_at_the_start(model: str, tmp_path) -> None:
    with pytest.raises(Exception, match="unknown key 'colour'"):
        served(model, {"store": str(tmp_path), "colour": 1}).__enter__()
