"""Tiny sizes under the names that configurations use for them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

VOCABULARY = 128
MAX_TOKENS = 512

_WHOLE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "max_position_embeddings": MAX_TOKENS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sliding_window": 48,
}
_OLDER_NAMES = {
    "d_model": 64,
    "n_embd": 64,
    "n_layer": 4,
    "n_layers": 4,
    "n_head": 4,
    "n_heads": 4,
    "n_positions": MAX_TOKENS,
    "n_ctx": MAX_TOKENS,
    "max_seq_len": MAX_TOKENS,
    "rotary_dim": 8,
    "ffn_dim": 96,
    "decoder_layers": 4,
    "decoder_ffn_dim": 96,
    "decoder_attention_heads": 4,
    "encoder_layers": 4,
    "encoder_ffn_dim": 96,
    "encoder_attention_heads": 4,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENTS = {
    "kv_lora_rank": 24,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 16,
}
_RECURRENT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
}
GENERIC = {**_WHOLE, **_OLDER_NAMES, **_EXPERTS, **_LATENTS, **_RECURRENT}


def tiny_config(model_type: str, **settings: Any) -> PreTrainedConfig:
    """A configuration of tiny sizes: the generic ones that it knows, then its own settings."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**_with_sizes(kind, settings))


def _with_sizes(kind: type[PreTrainedConfig], settings: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)} | set(kind.attribute_map)
    sizes = {kind.attribute_map.get(name, name): GENERIC[name] for name in GENERIC if name in names}
    for name, part in kind.sub_configs.items():
        own = dict(settings.get(name) or {})
        part = CONFIG_MAPPING[own["model_type"]] if "model_type" in own else part
        if name in settings or part is not AutoConfig:
            sizes[name] = _with_sizes(part, own)
    return {
        **sizes,
        **{key: value for key, value in settings.items() if key not in kind.sub_configs},
    }
