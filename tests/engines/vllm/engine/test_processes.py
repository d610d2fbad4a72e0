"""What one process saves another one loads, through `cachegen serve` and a link of 100 Mbit/s."""

from __future__ import annotations

import pytest

from cachegen.netem.opening import open_link
from tests.engines.vllm.engine.child import ask
from tests.engines.vllm.engine.served import PATIENT
from tests.engines.vllm.engine.tiny import prompt
from tests.server.conftest import serving

PROMPTS = [prompt(1100, seed) for seed in (1, 2)]


@pytest.mark.parametrize("level", ["lossless"])
def test_cold_and_warm_processes(model: str, tmp_path, level: str) -> None:
    asked = {"model": model, "prompts": PROMPTS}
    truth = ask({**asked, "extra": None})
    with serving("--store", tmp_path) as server, open_link(100, kind="proxy") as link:
        url = f"cachegen://{link.address(int(server.url.rpartition(':')[2]))}"
        extra = {"store": url, "level": level, **PATIENT}
        cold = ask({**asked, "extra": extra})
        warm = ask({**asked, "extra": extra})
    assert cold["texts"] == warm["texts"] == truth["texts"]
    assert (cold["cached"], warm["cached"]) == ([0, 0], [1024, 1024])
    assert cold["counts"]["tokens_saved"] == warm["counts"]["tokens_loaded"] == 2048
    assert "tokens_saved" not in warm["counts"]
