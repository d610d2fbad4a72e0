"""Adapters, media and tenants of requests: equal ones meet, others do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cachegen.engines.vllm.identity.request import RequestIdentity, request_identity
from cachegen.errors import UnsupportedCache

pytest.importorskip("vllm", reason="vLLM is not here: make vllm-env")

from tests.engines.vllm.identity.requests import request


def adapter(folder: Path, value: float, **settings: Any) -> str:
    folder.mkdir()
    save_file({"lora_A": torch.full((4, 4), value)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, **settings}))
    return str(folder)


def test_tokens_of_the_model_alone_need_nothing() -> None:
    assert request_identity(request()) == RequestIdentity()


def test_the_salt_is_the_tenants() -> None:
    assert request_identity(request(salt="a")) == RequestIdentity(salt=b"a")
    assert request_identity(request(salt="é")).salt == "é".encode()


def test_adapters_count_by_their_bytes(tmp_path: Path) -> None:
    first, same, other, scaled = (
        adapter(tmp_path / "a", 1.0),
        adapter(tmp_path / "b", 1.0),
        adapter(tmp_path / "c", 2.0),
        adapter(tmp_path / "d", 1.0, lora_alpha=32),
    )
    found = [request_identity(request(lora=path)).extra for path in (first, other, scaled)]
    assert len({b"", *found}) == 4
    assert request_identity(request(lora=same, name="other", number=7)).extra == found[0]


def test_a_changed_adapter_is_another_one(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", 1.0)
    before = request_identity(request(lora=path)).extra
    save_file({"lora_A": torch.ones(5, 4)}, tmp_path / "a" / "adapter_model.safetensors")
    assert request_identity(request(lora=path)).extra != before


def test_an_adapter_that_is_not_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCache, match="files on this machine"):
        request_identity(request(lora=str(tmp_path / "nowhere")))


def test_media_count_by_hash_and_place() -> None:
    several = (
        [("image", "hash1", 4)],
        [("image", "hash2", 4)],
        [("image", "hash1", 5)],
        [("audio", "hash1", 4)],
        [("image", "hash1", 4), ("image", "hash2", 20)],
    )
    found = [request_identity(request(media=media)).extra for media in several]
    assert len({b"", *found}) == len(several) + 1
    assert request_identity(request(media=several[0])).extra == found[0]


def test_embeddings_are_refused() -> None:
    with pytest.raises(UnsupportedCache, match="embeddings"):
        request_identity(request(embeddings=torch.zeros(5, 8)))
