"""Variants of architectures whose settings change what a cache holds or who may read it."""

from __future__ import annotations

from typing import Any

MIXED = ["sliding_attention", "full_attention"] * 2
MLA = {"num_key_value_heads": 4}
WITHIN = 384  # tokens, more than any text of the checks
BEYOND = 128  # tokens, fewer than their contexts

_THETA = {"rope_theta": 10_000.0}
_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
_DECODERS = (
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, **_THETA, **settings}}


def _long(original: int) -> dict[str, Any]:
    return _rope("longrope", **_FACTORS, original_max_position_embeddings=original)


_ROPES: dict[str, dict[str, Any]] = {
    "llama-linear": {"model_type": "llama", **_rope("linear", factor=2.0)},
    "llama-llama3": {
        "model_type": "llama",
        **_rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    },
    "llama-yarn": {
        "model_type": "llama",
        **_rope("yarn", factor=4.0, original_max_position_embeddings=BEYOND),
    },
    "llama-dynamic": {"model_type": "llama", **_rope("dynamic", factor=2.0)},
    "llama-dynamic-beyond": {
        "model_type": "llama",
        "max_position_embeddings": BEYOND,
        **_rope("dynamic", factor=2.0),
    },
    "llama-longrope": {"model_type": "llama", **_long(WITHIN)},
    "llama-longrope-beyond": {"model_type": "llama", **_long(BEYOND)},
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": WITHIN,
        **_long(WITHIN),
    },
    "phi3-longrope-beyond": {
        "model_type": "phi3",
        "original_max_position_embeddings": BEYOND,
        **_long(BEYOND),
    },
}
_ATTENTION: dict[str, dict[str, Any]] = {
    "deepseek_v2-without-q-rank": {"model_type": "deepseek_v2", **MLA, "q_lora_rank": None},
    "doge-window": {"model_type": "doge", "keep_window_size": 48},
    "falcon-alibi": {"model_type": "falcon", "alibi": True},
    "falcon-grouped": {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
    },
    "gpt_bigcode-all-heads": {"model_type": "gpt_bigcode", "multi_query": False},
    "gemma3n-unshared": {
        "model_type": "gemma3n_text",
        "layer_types": MIXED,
        "intermediate_size": [96] * 4,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text-shared": {
        "model_type": "gemma4_text",
        "layer_types": MIXED,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 16,
        "num_kv_shared_layers": 2,
    },
    "gemma4_text-experts": {
        "model_type": "gemma4_text",
        "layer_types": MIXED,
        "global_head_dim": 32,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 128,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
    },
    "minimax_m3_vl_text-sparse": {
        "model_type": "minimax_m3_vl_text",
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "index_block_size": 32,
        "index_topk_blocks": 2,
    },
    "mistral-unbounded": {"model_type": "mistral", "sliding_window": None},
    "opt-projected": {
        "model_type": "opt",
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "qwen2-windows": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
    "qwen3-windows": {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2},
    "stablelm-parallel": {
        "model_type": "stablelm",
        "use_parallel_residual": True,
        "qk_layernorm": True,
    },
    "xlm-causal": {"model_type": "xlm", "causal": True},
    "gpt2-cross": {"model_type": "gpt2", "add_cross_attention": True},
    "bert-cross": {"model_type": "bert", "is_decoder": True, "add_cross_attention": True},
}
_ATTENTION_ONLY: dict[str, dict[str, Any]] = {
    "granitemoehybrid-attention": {
        "model_type": "granitemoehybrid",
        "layer_types": ["attention"] * 4,
    },
    "jamba-attention": {"model_type": "jamba", "attn_layer_period": 1, "attn_layer_offset": 0},
    "lfm2-attention": {"model_type": "lfm2", "layer_types": ["full_attention"] * 4},
    "minimax-attention": {"model_type": "minimax", "layer_types": ["full_attention"] * 4},
    "qwen3_next-attention": {"model_type": "qwen3_next", "layer_types": ["full_attention"] * 4},
}
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{name}-decoder": {"model_type": name, "is_decoder": True} for name in _DECODERS},
    # Its sparse attention gives way to the full one at the first short text, for good.
    "big_bird-decoder": {
        "model_type": "big_bird",
        "is_decoder": True,
        "attention_type": "original_full",
    },
    **_ROPES,
    **_ATTENTION,
    **_ATTENTION_ONLY,
}
VARIANTS["xmod-decoder"]["default_language"] = "en_XX"
VARIANTS["roc_bert-decoder"].update(shape_vocab_size=128, pronunciation_vocab_size=128)
