"""SmolLM2-135M-Instruct from `make models`, once: `make test-vllm-real`."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from cachegen.cli.models import PROFILE
from cachegen.netem.opening import open_link
from tests.engines.vllm.engine.child import ask
from tests.engines.vllm.engine.served import PATIENT
from tests.server.conftest import serving

FOLDER = Path(
    os.environ.get("CACHEGEN_SMOLLM2", platformdirs.user_cache_path("cachegen") / "models/smollm2")
)
NUM_TOKENS, NUM_ASKED = 4096, 64
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason=f"no model in {FOLDER}: make models"),
]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """One that warms vLLM up, a text of 4,096 tokens, and that text with a question behind it."""
    from transformers import AutoTokenizer

    from cachegen.refmodel import load_text

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer(load_text("heldout-anstey")).input_ids
    question = ids[-NUM_ASKED:]
    return [ids[NUM_TOKENS : NUM_TOKENS + 300], ids[:NUM_TOKENS], ids[:NUM_TOKENS] + question]


def test_lossless_and_five_times_sooner_at_the_default_level(prompts, tmp_path) -> None:
    first, _, question = prompts
    model = {"model": str(FOLDER), "options": {"max_model_len": 8192, "block_size": 128}}
    asked = {**model, "prompts": [first, question], "max_tokens": 1}
    # What is loaded is compared with vLLM's own cache: in 16 bits a question computed with its text
    # in one go has other logits than one computed behind it, with the connector and without.
    own = ask({**model, "prompts": prompts, "max_tokens": 16, "extra": None})
    assert own["cached"][2] == NUM_TOKENS
    with serving("--store", tmp_path) as server, open_link(100, kind="proxy") as link:
        url = f"cachegen://{link.address(int(server.url.rpartition(':')[2]))}"
        exact = {"store": url, "level": "lossless", "namespace": "exact", **PATIENT}
        ask({**asked, "extra": exact})
        warm = ask({**asked, "extra": exact, "max_tokens": 16})
        assert warm["texts"] == [own["texts"][0], own["texts"][2]]
        assert warm["cached"][1] == NUM_TOKENS
        profile = FOLDER / PROFILE
        extra = {"store": url, **PATIENT, **({"profile": str(profile)} if profile.exists() else {})}
        cold = ask({**asked, "extra": extra})
        warm = ask({**asked, "extra": extra})
    assert warm["cached"][1] == NUM_TOKENS
    print(f"cold {cold['each_s'][1]:.2f} s, warm {warm['each_s'][1]:.2f} s, {warm['counts']}")
    assert warm["each_s"][1] * 5 <= cold["each_s"][1]
