"""What vLLM says of its groups: layers in the model's order, refusals with their reasons."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from cachegen.engines.vllm.layout.specs import CacheKind, layer_specs
from cachegen.errors import UnsupportedCache

pytest.importorskip("vllm", reason="vLLM is not here: make vllm-env")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vllm.v1 import kv_cache_interface as vllm

SHAPE: dict[str, Any] = {"block_size": 16, "num_kv_heads": 2, "head_size": 8}


def full(**changes: Any) -> Any:
    return vllm.FullAttentionSpec(**{**SHAPE, "dtype": torch.bfloat16, **changes})


def window(tokens: int) -> Any:
    return vllm.SlidingWindowSpec(
        **SHAPE, dtype=torch.bfloat16, sliding_window=tokens, dcp_sharded=False
    )


def latent(**changes: Any) -> Any:
    shape = {**SHAPE, "num_kv_heads": 1, "head_size": 24, "dtype": torch.bfloat16}
    return vllm.MLAAttentionSpec(**{**shape, **changes})


def config(*groups: tuple[list[str], Any], **changes: Any) -> Any:
    made = [vllm.KVCacheGroupSpec(names, spec, **changes) for names, spec in groups]
    return vllm.KVCacheConfig(num_blocks=9, kv_cache_tensors=[], kv_cache_groups=made)


def test_layers_come_in_the_models_order() -> None:
    groups = config(
        (["model.layers.10.attn", "model.layers.2.attn"], full()),
        (["model.layers.1.attn"], window(64)),
    )
    found = layer_specs(groups, CacheKind())
    assert [spec.name for spec in found] == [f"model.layers.{n}.attn" for n in (1, 2, 10)]
    assert [(spec.group, spec.window) for spec in found] == [(1, 64), (0, 0), (0, 0)]
    assert {(s.block_tokens, s.heads, s.key_dim, s.value_dim) for s in found} == {(16, 2, 8, 8)}


def test_layers_of_a_group_may_have_shapes_of_their_own() -> None:
    each = {"layers.0": full(), "layers.1": full(num_kv_heads=4, head_size_v=4)}
    whole = vllm.UniformTypeKVCacheSpecs(block_size=16, kv_cache_specs=each)
    first, second = layer_specs(config((["layers.0", "layers.1"], whole)), CacheKind())
    assert (first.heads, first.value_dim) == (2, 8)
    assert (second.heads, second.value_dim) == (4, 4)


def test_rows_of_latents_are_cut_where_the_rotated_part_begins() -> None:
    kind = CacheKind(latent_dim=16, has_pairs=True)
    [found] = layer_specs(config((["layers.0"], latent())), kind)
    assert (found.heads, found.key_dim, found.value_dim) == (1, 16, 8)
    assert found.is_latent
    assert found.has_pairs


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp8", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)]
)
def test_8_bit_caches_are_what_they_are(name: str, dtype: torch.dtype) -> None:
    spec = full(dtype=torch.uint8, kv_quant_mode=vllm.KVQuantMode.FP8_PER_TENSOR)
    [found] = layer_specs(config((["layers.0"], spec)), CacheKind(cache_dtype=name))
    assert found.dtype == dtype


def mamba() -> Any:
    return vllm.MambaSpec(block_size=16, shapes=((4, 4),), dtypes=(torch.bfloat16,))


def quantised(mode: str) -> Any:
    return full(dtype=torch.uint8, kv_quant_mode=vllm.KVQuantMode[mode])


def chunked() -> Any:
    return vllm.ChunkedLocalAttentionSpec(**SHAPE, dtype=torch.bfloat16, attention_chunk_size=64)


REFUSED = {
    "recurrent": (mamba, "auto", "recurrent state"),
    "chunks of a text": (chunked, "auto", "where chunks of the text begin"),
    "4 bits": (lambda: quantised("NVFP4"), "nvfp4", "only the kernel knows"),
    "8 bits a token": (
        lambda: quantised("INT8_PER_TOKEN_HEAD"),
        "int8_per_token_head",
        "only the kernel knows",
    ),
    "latents of 8 bits": (lambda: latent(dtype=torch.uint8), "fp8_ds_mla", "only the kernel knows"),
    "8 bits nobody named": (lambda: full(dtype=torch.uint8), "auto", "uint8"),
    "an indexer": (
        lambda: latent(cache_role=vllm.SparseCacheRole.INDEXER),
        "auto",
        "sparse indexers",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_stored_is_refused(what: str) -> None:
    make, cache_dtype, reason = REFUSED[what]
    groups = config((["layers.0"], full()), (["layers.1"], make()))
    with pytest.raises(UnsupportedCache, match=reason):
        layer_specs(groups, CacheKind(cache_dtype=cache_dtype, latent_dim=16))


def test_layers_of_a_draft_are_refused() -> None:
    with pytest.raises(UnsupportedCache, match="draft"):
        layer_specs(config((["layers.0"], full()), is_eagle_group=True), CacheKind())


def test_layers_of_several_types_are_refused() -> None:
    groups = config((["layers.0"], full()), (["layers.1"], full(dtype=torch.float16)))
    with pytest.raises(UnsupportedCache, match="one type"):
        layer_specs(groups, CacheKind())


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedCache, match="got none"):
        layer_specs(config(), CacheKind())
