"""KV caches as safetensors files: `layers.N.keys` and `layers.N.values`, (heads, tokens, dim).

The tensor `tokens`, int64, holds the ids that the cache belongs to; it may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cachegen.kvcache import KVCache

_TOKENS = "tokens"
_HEADER_OFFSET = 8  # of the JSON header in a safetensors file


def write_kv(kv: KVCache, path: Path, *, tokens: Sequence[int] | None = None) -> None:
    """Write a cache, and its tokens where they are known, to a file."""
    tensors = {}
    for layer, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
        tensors[f"layers.{layer}.keys"] = key.contiguous()
        tensors[f"layers.{layer}.values"] = value.contiguous()
    if tokens is not None:
        tensors[_TOKENS] = torch.tensor(tokens, dtype=torch.int64)
    save_file(tensors, path, metadata={"start": str(kv.start)})


def read_kv(path: Path) -> KVCache:
    """Read a cache from a file.

    Raises:
        ValueError: the file is not a safetensors file with keys and values of every layer.
    """
    try:
        with safe_open(path, framework="pt") as file:
            start = int((file.metadata() or {}).get("start", "0"))
            num_layers = len(set(file.keys()) - {_TOKENS}) // 2
            layers = [
                (file.get_tensor(f"layers.{n}.keys"), file.get_tensor(f"layers.{n}.values"))
                for n in range(num_layers)
            ]
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file with layers.0.keys, layers.0.values, ...: {error}"
        ) from error
    return KVCache.from_layers(layers, start=start)


def read_kv_tokens(path: Path) -> list[int] | None:
    """The tokens in a cache's file; None where it has none.

    Raises:
        ValueError: the file is no safetensors file, or the tensor is no list of integers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if _TOKENS not in set(file.keys()):
                return None
            return _checked(file.get_tensor(_TOKENS).tolist())
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, its tensor `tokens` flat integers: {error}"
        ) from error


def read_token_file(path: Path) -> list[int]:
    """Token ids from a JSON list, from text with one integer a line, or from a cache's file.

    Raises:
        ValueError: the file is none of these.
    """
    data = path.read_bytes()
    if data[_HEADER_OFFSET : _HEADER_OFFSET + 1] == b"{":
        tokens = read_kv_tokens(path)
        if tokens is None:
            raise ValueError(f"{path}: expected a tensor `tokens`, there is none")
        return tokens
    try:
        is_json = data.lstrip().startswith(b"[")
        return _checked(json.loads(data) if is_json else [int(line) for line in data.split()])
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a JSON list of token ids, one id a line, or a file of a cache "
            f"with its tokens: {error}"
        ) from error


def _checked(values: object) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError("these are not only integers")
    return values
