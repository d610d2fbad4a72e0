"""From the tensors that vLLM registers to a `PagedCache`, with its CPU kernel's packing learned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from cachegen.engines.vllm.layout.blocks import Split
from cachegen.engines.vllm.layout.packing import Kernel, Packing, learn_packing
from cachegen.engines.vllm.layout.paged import PagedCache
from cachegen.engines.vllm.layout.shapes import LayerSpec, layer_blocks
from cachegen.engines.vllm.layout.specs import CacheKind, layer_specs
from cachegen.errors import UnsupportedCache


def check_groups(kv_cache_config: Any, *, vllm_config: Any) -> tuple[LayerSpec, ...]:
    """The layers as the scheduler knows them, without tensors.

    Raises:
        UnsupportedCache: a layer's state cannot be stored.
    """
    return layer_specs(kv_cache_config, _kind(vllm_config))


def paged_cache(
    kv_caches: Mapping[str, torch.Tensor], *, kv_cache_config: Any, vllm_config: Any
) -> PagedCache:
    """The cache of a worker. Its layers are those that have blocks of their own.

    Args:
        kv_caches: as `register_kv_caches` gives them.
        kv_cache_config: of the engine, ``KVCacheConfig``.
        vllm_config: of the engine, ``VllmConfig``.

    Raises:
        UnsupportedCache: a layer's state cannot be stored, a tensor has no layout known here, or
            the CPU kernel's packing could not be learned.
    """
    kind = _kind(vllm_config)
    modules = vllm_config.compilation_config.static_forward_context
    specs = tuple(
        spec
        for spec in layer_specs(kv_cache_config, kind)
        if not getattr(modules.get(spec.name), "kv_sharing_target_layer_name", None)
    )
    missing = [spec.name for spec in specs if spec.name not in kv_caches]
    if missing:
        raise UnsupportedCache(f"expected tensors of all layers; of {missing} there are none")
    layers = tuple(
        layer_blocks(
            kv_caches[spec.name],
            spec,
            num_blocks=kv_cache_config.num_blocks,
            split=_split(kv_caches[spec.name], spec, modules.get(spec.name), vllm_config),
        )
        for spec in specs
    )
    return PagedCache(specs, layers)


def _kind(vllm_config: Any) -> CacheKind:
    text = vllm_config.model_config.hf_text_config
    return CacheKind(
        cache_dtype=str(vllm_config.cache_config.cache_dtype),
        latent_dim=int(getattr(text, "kv_lora_rank", None) or 0),
        has_pairs=bool(getattr(text, "rope_interleave", False)),
    )


def _split(tensor: torch.Tensor, spec: LayerSpec, module: Any, vllm_config: Any) -> Split | None:
    """Of layers whose kernel packs blocks: those that were told which instructions it uses."""
    isa = getattr(module, "isa", None)
    if isa is None or spec.is_latent:
        _refuse_unasked(tensor, spec)
        return None
    written, name = vllm_config.model_config.dtype, str(vllm_config.cache_config.cache_dtype)
    return _packing(isa, tensor.shape[2], spec.key_dim, spec.dtype, written, name).split


def _refuse_unasked(tensor: torch.Tensor, spec: LayerSpec) -> None:
    """On a CPU all kernels of ordinary attention pack; one that cannot be asked is not believed."""
    if tensor.device.type == "cpu" and not spec.is_latent:
        raise UnsupportedCache(
            f"layer {spec.name}: which kernel packs its blocks is not known, so keys cannot be "
            "read: expected vLLM's CPU attention (version 0.32 sets `isa` on its layers)"
        )


@cache
def _packing(
    isa: str,
    block_tokens: int,
    dim: int,
    dtype: torch.dtype,
    written: torch.dtype,
    cache_dtype: str,
) -> Packing:
    kernel = _cpu_kernel(isa, dim, cache_dtype=cache_dtype)
    return learn_packing(kernel, block_tokens=block_tokens, dim=dim, dtype=dtype, written=written)


def _cpu_kernel(isa: str, dim: int, *, cache_dtype: str) -> Kernel:
    """vLLM's own operation that writes keys and values to slots."""
    from vllm import _custom_ops as ops

    def write(
        keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor, slots: torch.Tensor
    ) -> None:
        count, heads = blocks.shape[:2]
        halves = blocks.view(count, heads, -1, dim).chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            keys.contiguous(), values.contiguous(), *halves, slots, isa, kv_cache_dtype=cache_dtype
        )

    return write
