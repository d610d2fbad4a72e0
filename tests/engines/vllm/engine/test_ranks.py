"""Two tensor-parallel ranks, each in a process with heads and contexts of its own."""

from __future__ import annotations

from tests.engines.vllm.engine.child import ask
from tests.engines.vllm.engine.served import PATIENT
from tests.engines.vllm.engine.tiny import prompt

# Three whole chunks, and four.
PROMPTS = [prompt(500, 1), prompt(600, 2)]
NUM_CHUNKS = 3 + 4


def test_both_ranks_load_what_both_have_saved(model: str, tmp_path) -> None:
    options = {"dtype": "float32", "tensor_parallel_size": 2}
    extra = {"store": str(tmp_path), "level": "lossless", "chunk_tokens": 128, **PATIENT}
    asked = {"model": model, "prompts": PROMPTS, "options": options}
    cold = ask({**asked, "extra": extra})
    assert cold["cached"] == [0, 0]
    assert cold["counts"]["tokens_saved"] == 2 * 128 * NUM_CHUNKS
    # Of the longer prompt one rank has its last chunk, the other has not.
    last = [path for path in (tmp_path / "chunks").rglob("lossless") if "384-512" in str(path)]
    assert len(last) == 2
    last[0].unlink()
    warm = ask({**asked, "extra": extra})
    assert warm["texts"] == cold["texts"]
    assert warm["cached"][0] == 384
    assert warm["counts"]["tokens_loaded"] == 128 * (2 * NUM_CHUNKS - 1)
