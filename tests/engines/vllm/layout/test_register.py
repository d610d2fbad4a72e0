"""vLLM's own CPU kernels: what they write is read, and what is written they would have written."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cachegen.engines.vllm.layout.register import paged_cache
from cachegen.errors import UnsupportedCache
from cachegen.kvcache import KVCache

pytest.importorskip("vllm", reason="vLLM is not here: make vllm-env")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vllm import _custom_ops as ops
    from vllm.v1 import kv_cache_interface as vllm

BLOCKS, HEADS = 12, 2
FP8 = {"fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def engine(
    block_tokens: int,
    dim: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    cache_dtype: str = "auto",
    isa: str | None = "vec",
) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """Tensors of two layers, and the settings of the engine that are asked for."""
    stored = torch.uint8 if cache_dtype in FP8 else dtype
    names = ["layers.0.attn", "layers.1.attn"]
    tensors = {n: torch.zeros(BLOCKS, HEADS, block_tokens, 2 * dim, dtype=stored) for n in names}
    mode = vllm.get_kv_quant_mode(cache_dtype)
    spec = vllm.FullAttentionSpec(
        block_size=block_tokens, num_kv_heads=HEADS, head_size=dim, dtype=stored, kv_quant_mode=mode
    )
    groups = vllm.KVCacheConfig(
        num_blocks=BLOCKS,
        kv_cache_tensors=[],
        kv_cache_groups=[vllm.KVCacheGroupSpec(names, spec)],
    )
    layer = SimpleNamespace(isa=isa) if isa else SimpleNamespace()
    settings = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(), dtype=dtype),
        cache_config=SimpleNamespace(cache_dtype=cache_dtype),
        compilation_config=SimpleNamespace(static_forward_context=dict.fromkeys(names, layer)),
    )
    return tensors, groups, settings


def is_built(isa: str, dim: int, *, dtype: torch.dtype, cache_dtype: str) -> bool:
    """Whether vLLM has this kernel for the CPU: without AVX-512 some are missing."""
    keys = torch.ones(32, HEADS, dim, dtype=dtype)
    stored = torch.uint8 if cache_dtype in FP8 else dtype
    halves = torch.zeros(1, HEADS, 64, dim, dtype=stored).chunk(2, dim=2)
    try:
        ops.cpu_attn_reshape_and_cache(
            keys, keys, *halves, torch.arange(32), isa, kv_cache_dtype=cache_dtype
        )
    except RuntimeError as error:
        assert "Unsupported CPU attention configuration" in str(error)
        return False
    return True


@pytest.mark.parametrize("block_tokens", [16, 32, 64, 128])
@pytest.mark.parametrize(
    ("isa", "dim", "dtype", "cache_dtype"),
    [
        ("vec", 64, torch.bfloat16, "auto"),
        ("vec", 128, torch.float32, "auto"),
        ("vec", 32, torch.float16, "auto"),
        ("vec16", 80, torch.bfloat16, "auto"),
        ("amx", 64, torch.bfloat16, "auto"),
        ("vec", 64, torch.bfloat16, "fp8"),
        ("vec", 64, torch.bfloat16, "fp8_e5m2"),
    ],
)
def test_what_the_kernel_writes_is_read(
    block_tokens: int, isa: str, dim: int, dtype: torch.dtype, cache_dtype: str
) -> None:
    if isa == "amx" and block_tokens < 32:
        pytest.skip("this kernel takes multiples of 32")
    if not is_built(isa, dim, dtype=dtype, cache_dtype=cache_dtype):
        pytest.skip("vLLM has no such kernel for this CPU")
    tensors, groups, settings = engine(
        block_tokens, dim, dtype=dtype, cache_dtype=cache_dtype, isa=isa
    )
    pages = paged_cache(tensors, kv_cache_config=groups, vllm_config=settings)
    made = torch.Generator().manual_seed(4)
    ids, num_tokens = [5, 2, 9], 2 * block_tokens + 7
    slots = (torch.tensor(ids)[:, None] * block_tokens + torch.arange(block_tokens)).view(-1)
    kept, given = FP8.get(cache_dtype, dtype), []
    for tensor in tensors.values():
        drawn = torch.randn(2, num_tokens, HEADS, dim, generator=made)
        keys, values = drawn.to(kept).to(dtype)  # kernels round to 8 bits in ways of their own
        halves = tensor.view(BLOCKS, HEADS, -1, dim).chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            keys, values, *halves, slots[:num_tokens], isa, kv_cache_dtype=cache_dtype
        )
        given += [keys, values]
    kv = pages.read([ids], start=0, stop=num_tokens)
    assert kv.dtype == kept
    for plane, rows in zip(kv.planes(), given, strict=True):
        assert torch.equal(plane.float().transpose(0, 1), rows.float())
    _moved_as_the_kernel_would(pages, tensors, kv, ids)


def _moved_as_the_kernel_would(
    pages: Any, tensors: dict[str, torch.Tensor], kv: KVCache, ids: list[int]
) -> None:
    moved = [7, 11, 1]
    pages.write(kv, [moved])
    for tensor in tensors.values():
        assert torch.equal(tensor[moved].view(torch.uint8), tensor[ids].view(torch.uint8))


def test_a_kernel_that_cannot_be_asked_is_refused() -> None:
    tensors, groups, settings = engine(32, 64, isa=None)
    with pytest.raises(UnsupportedCache, match="which kernel packs"):
        paged_cache(tensors, kv_cache_config=groups, vllm_config=settings)


def test_layers_without_tensors_are_refused() -> None:
    tensors, groups, settings = engine(32, 64)
    del tensors["layers.1.attn"]
    with pytest.raises(UnsupportedCache, match=r"layers\.1\.attn"):
        paged_cache(tensors, kv_cache_config=groups, vllm_config=settings)


def test_layers_that_read_anothers_have_no_planes() -> None:
    tensors, groups, settings = engine(32, 64)
    modules = settings.compilation_config.static_forward_context
    modules["layers.1.attn"] = SimpleNamespace(
        isa="vec", kv_sharing_target_layer_name="layers.0.attn"
    )
    pages = paged_cache(tensors, kv_cache_config=groups, vllm_config=settings)
    assert [spec.name for spec in pages.specs] == ["layers.0.attn"]
