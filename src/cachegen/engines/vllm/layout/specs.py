"""What vLLM says of its KV cache groups, as `LayerSpec`s; what cannot be stored is refused.

Specs are told apart by the names of their classes, so that nothing of vLLM is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cachegen.engines.vllm.layout.shapes import LayerSpec
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import DTYPES

_WINDOW = "SlidingWindowSpec"
_LATENT = "MLAAttentionSpec"
_KNOWN = ("FullAttentionSpec", _WINDOW, _LATENT)
_REASONS = {
    "MambaSpec": "it keeps a recurrent state, which cannot be cut into chunks of tokens",
    "CrossAttentionSpec": "it keeps an encoder's state beside keys and values of tokens",
    "EncoderOnlyAttentionSpec": "its attention is not causal",
    "ChunkedLocalAttentionSpec": "which tokens it keeps depends on where chunks of the text begin",
}
_OTHERWISE = "this kind of attention layer is not known here"
_FP8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class CacheKind:
    """What of the engine's settings decides how rows are read.

    Attributes:
        cache_dtype: as the engine names it: ``auto``, ``fp8``, or a type.
        latent_dim: of MLA, the width of the latent part of a row; 0 for other models.
        has_pairs: of MLA, as in `LayerSpec`.
    """

    cache_dtype: str = "auto"
    latent_dim: int = 0
    has_pairs: bool = False


def layer_specs(kv_cache_config: Any, kind: CacheKind) -> tuple[LayerSpec, ...]:
    """The layers of a ``KVCacheConfig``, in the model's order.

    Raises:
        UnsupportedCache: a layer's state is more than keys and values of tokens, or is quantised in
            a way that only its kernel knows.
    """
    found = [
        _layer_spec(name, group, spec, kind)
        for group, entry in enumerate(kv_cache_config.kv_cache_groups)
        for name, spec in _layers(entry)
    ]
    if not found:
        raise UnsupportedCache("expected layers that keep keys and values of tokens, got none")
    types = {spec.dtype for spec in found}
    if len(types) > 1:
        raise UnsupportedCache(f"expected layers of one type, got {types}")
    return tuple(sorted(found, key=_place))


def _layers(group: Any) -> Iterator[tuple[str, Any]]:
    """Names and specs of a group's layers."""
    whole = group.kv_cache_spec
    each: Mapping[str, Any] = getattr(whole, "kv_cache_specs", {})
    if getattr(group, "is_eagle_group", False) or not getattr(group, "enable_kv_transfer", True):
        raise UnsupportedCache(
            f"layers {group.layer_names}: they are a draft model's, or the engine does not let "
            "them be transferred; expected layers of the model itself"
        )
    for name in group.layer_names:
        yield name, each.get(name, whole)


def _layer_spec(name: str, group: int, spec: Any, kind: CacheKind) -> LayerSpec:
    class_name = type(spec).__name__
    if class_name not in _KNOWN:
        raise UnsupportedCache(
            f"layer {name} ({class_name}): {_REASONS.get(class_name, _OTHERWISE)}; use a "
            "decoder-only model whose layers all keep keys and values of tokens"
        )
    _refuse_packed(name, spec)
    dtype = _dtype(name, spec, kind.cache_dtype)
    window = int(spec.sliding_window) if class_name == _WINDOW else 0
    if class_name != _LATENT:
        dims = int(spec.head_size), int(spec.head_size_v)
        return LayerSpec(name, group, spec.block_size, spec.num_kv_heads, *dims, dtype, window)
    if not 0 < kind.latent_dim < spec.head_size or "INDEXER" in str(
        getattr(spec, "cache_role", "")
    ):
        raise UnsupportedCache(
            f"layer {name}: expected rows of {spec.head_size} values of a latent and a rotated "
            f"part, with a latent of {kind.latent_dim}; sparse indexers are not known here"
        )
    dims = kind.latent_dim, int(spec.head_size) - kind.latent_dim
    return LayerSpec(
        name, group, spec.block_size, 1, *dims, dtype, is_latent=True, has_pairs=kind.has_pairs
    )


def _refuse_packed(name: str, spec: Any) -> None:
    """Refuse rows that are not one number for each value of a token."""
    mode = getattr(spec.kv_quant_mode, "name", "NONE")
    content = getattr(spec, "state_content_bytes", None)
    slots, states = getattr(spec, "num_head_slots", None), getattr(spec, "tokens_per_state", 1)
    if mode not in ("NONE", "FP8_PER_TENSOR") or content or slots or states != 1:
        raise UnsupportedCache(
            f"layer {name}: its KV cache is quantised ({mode}) into rows that only the kernel "
            "knows: expected --kv-cache-dtype auto, or fp8 with one scale a tensor"
        )


def _dtype(name: str, spec: Any, cache_dtype: str) -> torch.dtype:
    """Of values; the engine keeps 8-bit floats as bytes."""
    dtype: torch.dtype = _FP8.get(cache_dtype, spec.dtype)
    is_known = cache_dtype in _FP8 or not cache_dtype.startswith("fp8")
    if not is_known or dtype not in DTYPES:
        raise UnsupportedCache(
            f"layer {name}: expected --kv-cache-dtype as a type of floats or one of "
            f"{sorted(_FP8)}; got {cache_dtype!r}, {dtype}, whose rows only the kernel knows"
        )
    return dtype


def _place(spec: LayerSpec) -> list[int]:
    """The numbers in a layer's name: the model's order."""
    return [int(number) for number in re.findall(r"\d+", spec.name)]
