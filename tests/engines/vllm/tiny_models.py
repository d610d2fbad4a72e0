"""Tiny random models that both engines load, one for each claim that their KV is equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 256
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.2,
    "max_position_embeddings": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# vLLM's kernels take latents of 512 values and 64 that are rotated, and no others.
_LATENT: dict[str, Any] = {
    "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64,
    "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 32,
    "n_shared_experts": 1, "num_key_value_heads": 4, "head_dim": 64,
}  # fmt: skip


def _rotated(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


_LONG = _rotated(
    "longrope",
    original_max_position_embeddings=256,
    short_factor=[1 + pair / 10 for pair in range(16)],
    long_factor=[2 + pair / 4 for pair in range(16)],
)
_YARN = _rotated("yarn", factor=4.0, original_max_position_embeddings=256)
# By name: the type of the model, and how it differs from `_SIZES`.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "linear": ("llama", _rotated("linear", factor=2.0)),
    "llama3": (
        "llama",
        _rotated(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=128,
        ),
    ),
    "yarn": ("llama", _YARN),
    "longrope": ("phi3", {**_LONG, "original_max_position_embeddings": 256}),
    "mistral": ("mistral", {"sliding_window": 16}),
    "phi3": ("phi3", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {"sliding_window": 16, "num_hidden_layers": 6}),
    "deepseek_v2": ("deepseek_v2", {**_LATENT, **_YARN}),
    "deepseek_v3": ("deepseek_v3", {**_LATENT, **_YARN, "topk_method": "noaux_tc"}),
}


def make_model(name: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model's files, the same ones every time."""
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**_SIZES, **changes})
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder / name)
    return folder / name
