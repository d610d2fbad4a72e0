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
NUM_TOKENS = 4096
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason=f"no model in {FOLDER}: make models"),
]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """A text of 4,096 tokens, twice: the first one warms vLLM up with another beginning."""
    from transformers import AutoTokenizer

    from cachegen.refmodel import load_text

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer(load_text("heldout-anstey")).input_ids
    return [ids[NUM_TOKENS : NUM_TOKENS + 300], ids[:NUM_TOKENS]]


def test_lossless_and_five_times_sooner_at_the_default_level(prompts, tmp_path) -> None:
    options = {"max_model_len": 8192, "block_size": 128}
    asked = {"model": str(FOLDER), "prompts": prompts, "options": options, "max_tokens": 1}
    truth = ask({**asked, "extra": None, "max_tokens": 16})
    with serving("--store", tmp_path) as server, open_link(100, kind="proxy") as link:
        url = f"cachegen://{link.address(int(server.url.rpartition(':')[2]))}"
        exact = {"store": url, "level": "lossless", "namespace": "exact", **PATIENT}
        ask({**asked, "extra": exact})
        warm = ask({**asked, "extra": exact, "max_tokens": 16})
        assert warm["texts"] == truth["texts"] and warm["cached"][1] == NUM_TOKENS
        profile = FOLDER / PROFILE
        extra = {"store": url, **PATIENT, **({"profile": str(profile)} if profile.exists() else {})}
        cold = ask({**asked, "extra": extra})
        warm = ask({**asked, "extra": extra})
    assert warm["cached"][1] == NUM_TOKENS
    print(f"cold {cold['each_s'][1]:.2f} s, warm {warm['each_s'][1]:.2f} s, {warm['counts']}")
    assert warm["each_s"][1] * 5 <= cold["each_s"][1]
