"""KV caches as safetensors files: `layers.N.keys` and `layers.N.values`, (heads, tokens, dim)."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cachegen.kvcache import KVCache


def write_kv(kv: KVCache, path: Path) -> None:
    """Write a cache to a file."""
    tensors = {}
    for layer, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
        tensors[f"layers.{layer}.keys"] = key.contiguous()
        tensors[f"layers.{layer}.values"] = value.contiguous()
    save_file(tensors, path, metadata={"start": str(kv.start)})


def read_kv(path: Path) -> KVCache:
    """Read a cache from a file.

    Raises:
        ValueError: the file is not a safetensors file with keys and values of every layer.
    """
    try:
        with safe_open(path, framework="pt") as file:
            start = int((file.metadata() or {}).get("start", "0"))
            num_layers = len(file.keys()) // 2
            layers = [
                (file.get_tensor(f"layers.{n}.keys"), file.get_tensor(f"layers.{n}.values"))
                for n in range(num_layers)
            ]
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file with layers.0.keys, layers.0.values, ...: {error}"
        ) from error
    return KVCache.from_layers(layers, start=start)
