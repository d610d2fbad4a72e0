"""Caches and token lists as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cachegen.cli.kvfile import read_kv, read_kv_tokens, read_token_file, write_kv
from cachegen.kvcache import KVCache

IDS = [5, 0, 2**31, 7]


def small_cache() -> KVCache:
    planes = torch.arange(8.0).reshape(1, 4, 2)
    return KVCache.from_layers([(planes, -planes), (2 * planes, planes + 1)], start=3)


@pytest.mark.parametrize("tokens", [None, IDS])
def test_tokens_stand_beside_the_cache(tmp_path: Path, tokens: list[int] | None) -> None:
    path, kv = tmp_path / "kv.safetensors", small_cache()
    write_kv(kv, path, tokens=tokens)
    assert read_kv_tokens(path) == tokens
    found = read_kv(path)
    assert (found.start, found.num_layers) == (3, 2)
    for a, b in zip(found.planes(), kv.planes(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "text", [json.dumps(IDS), "\n [5,\n0, 2147483648, 7]\n", "5\n0\n2147483648\n7", "5\r\n0 \n"]
)
def test_token_files_as_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    assert read_token_file(path) == (IDS if "7" in text else IDS[:2])


def test_token_files_of_caches(tmp_path: Path) -> None:
    path = tmp_path / "kv.safetensors"
    write_kv(small_cache(), path, tokens=IDS)
    assert read_token_file(path) == IDS
    write_kv(small_cache(), path)
    with pytest.raises(ValueError, match="expected a tensor `tokens`"):
        read_token_file(path)


@pytest.mark.parametrize(
    "data",
    [b"hello", b"1.5", b"[1, 2.0]", b"[1, true]", b"[[1]]", b"[1", b"\xff\xfe1\n2", b"        {}"],
)
def test_what_is_no_token_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{path}: expected"):
        read_token_file(path)


def test_tokens_must_be_integers(tmp_path: Path) -> None:
    path = tmp_path / "kv.safetensors"
    save_file({"tokens": torch.tensor([0.5])}, path)
    with pytest.raises(ValueError, match="not only integers"):
        read_kv_tokens(path)
