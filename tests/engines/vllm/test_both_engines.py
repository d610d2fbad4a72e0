"""Keys and values that vLLM computes are those of transformers, in the same places, by one name.

This is what `EQUAL_MODELS` and `EQUAL_ROTATIONS` claim. A text of 300 tokens is read by vLLM, all
of its blocks as `PagedCache` gives them, and by transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from cachegen.engines.transformers import capture, fingerprint, windows_of
from cachegen.engines.transformers.regime import regime_of
from cachegen.kvcache import KVCache
from tests.engines.vllm.tiny_models import MODELS, VOCABULARY, make_model

pytest.importorskip("vllm", reason="vLLM is not here: make vllm-env")

from cachegen.engines.vllm.identity.model import (
    EQUAL_LATENT_ROTATIONS,
    EQUAL_LATENTS,
    EQUAL_MODELS,
    EQUAL_ROTATIONS,
)

TOKENS = [token * token * 7 % (VOCABULARY - 3) + 3 for token in range(300)]
# Of a plane's norm. float32 and two orders of summation: 2e-6 was found at most.
ROUNDING = 1e-5
# The first few are tried by default: rows, windows in groups of their own, latents with pairs.
FEW = ("llama", "gemma3", "deepseek_v3")
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Recorded:
    """What vLLM computed, and how that is named."""

    planes: list[torch.Tensor]
    described: dict[str, str]


def recorded(names: Iterator[str] | tuple[str, ...], folder: Path) -> dict[str, Recorded]:
    """Run vLLM on models, in one process of its own."""
    wanted = [
        {"folder": str(make_model(name, folder)), "tokens": TOKENS, "to": f"{folder}/{name}.kv"}
        for name in names
    ]
    (folder / "wanted.json").write_text(json.dumps(wanted))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CACHEGEN_CACHE_DIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, "-m", "tests.engines.vllm.recorder", str(folder / "wanted.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {Path(one["folder"]).name: _read(one["to"]) for one in wanted}


def _read(path: str) -> Recorded:
    with safe_open(path, "pt") as file:
        return Recorded([file.get_tensor(key) for key in sorted(file.keys())], file.metadata())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    return recorded(FEW, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    return recorded(tuple(MODELS.keys() - FEW), tmp_path_factory.mktemp("others"))


@pytest.mark.parametrize("name", FEW)
def test_few_are_equal(name: str, few: dict[str, Recorded], tmp_path: Path) -> None:
    check_equal(name, few[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS.keys() - FEW))
def test_all_others_are_equal(name: str, others: dict[str, Recorded], tmp_path: Path) -> None:
    check_equal(name, others[name], tmp_path)


def check_equal(name: str, found: Recorded, folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_model(name, folder)).eval()
    expected = capture(model, TOKENS)
    assert found.described["fingerprint"] == fingerprint(model).hex()
    assert found.described["extra"] == regime_of(model, len(TOKENS)).extra(b"").hex()
    assert json.loads(found.described["windows"]) == list(windows_of(model))
    assert found.described["written"] == "True"
    assert max(distances(found.planes, expected)) < ROUNDING


def distances(planes: list[torch.Tensor], expected: KVCache) -> Iterator[float]:
    for plane, other in zip(planes, expected.planes(), strict=True):
        assert plane.shape == other.shape
        yield float((plane - other).norm() / other.norm())


def test_windows_have_groups_of_their_own(few: dict[str, Recorded]) -> None:
    assert few["llama"].described["groups"] == "1"
    assert int(few["gemma3"].described["groups"]) > 1


def test_every_claim_is_tried() -> None:
    tried = {
        (kind, changes.get("rope_parameters", {}).get("rope_type", "default"))
        for kind, changes in MODELS.values()
    }
    latents = {(kind, turn) for kind, turn in tried if kind in EQUAL_LATENTS}
    assert {kind for kind, _ in latents} == EQUAL_LATENTS
    assert {turn for _, turn in latents} == EQUAL_LATENT_ROTATIONS
    assert {kind for kind, _ in tried - latents} == EQUAL_MODELS
    assert {turn for _, turn in tried - latents} == EQUAL_ROTATIONS
