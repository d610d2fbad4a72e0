"""Models with other caches: windows in groups of their own, latents in blocks of 16 tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.vllm.engine import tiny
from tests.engines.vllm.engine.served import PATIENT, served
from tests.engines.vllm.tiny_models import VOCABULARY, make_model

OPTIONS = {"dtype": "float32", "max_model_len": 1024}
PROMPTS = [tiny.prompt(500, seed, vocabulary=VOCABULARY) for seed in (1, 2)]


def gemma(folder: Path) -> Path:
    tiny.write_gemma(folder, window=160)
    return folder


def deepseek(folder: Path) -> Path:
    return make_model("deepseek_v2", folder)


@pytest.mark.parametrize(
    ("make", "options"),
    [(gemma, {"block_size": 32}), (deepseek, {})],
    ids=["gemma3", "deepseek_v2"],
)
def test_models(make, options, tmp_path) -> None:
    model, options = str(make(tmp_path / "model")), {**OPTIONS, **options}
    with served(model, **options) as engine:
        truth = [engine([tokens])[0] for tokens in PROMPTS]
    extra = {"store": str(tmp_path / "contexts"), "level": "lossless", "chunk_tokens": 128}
    extra |= PATIENT
    with served(model, extra, **options) as engine:
        assert engine(PROMPTS) == truth
        engine.settle()
        assert engine.counts()["tokens_saved"] == 2 * 384
        engine.forget()
        assert engine(PROMPTS) == truth
        assert engine.counts()["tokens_loaded"] == 2 * 384
        # A lost chunk: all is computed.
        engine.forget()
        for path in (tmp_path / "contexts" / "chunks").rglob("*"):
            if path.is_file() and "256-384" in str(path):
                path.unlink()
        assert engine(PROMPTS) == truth
        counts = engine.counts()
        assert counts["hits"] == 2 and counts.get("tokens_loaded", 0) in (0, 2 * 256)


def test_chunks_longer_than_a_window_are_refused(tmp_path) -> None:
    model = str(gemma(tmp_path / "model"))
    with pytest.raises(Exception, match="below the model's window of 160 tokens, got 256"):
        served(model, {"store": str(tmp_path)}, **OPTIONS, block_size=32).__enter__()
