"""Every architecture of the zoo, by name: its model type and what the generic sizes leave open.

A name is a model type of `AutoModelForCausalLM`, or one with a suffix for another variant of it.
"""

from __future__ import annotations

from typing import Any

from tests.engines.transformers.zoo.variants import MIXED, MLA, VARIANTS

_TINY_SIGHT = {"model_type": "siglip_vision_model", "hidden_size": 32, "image_size": 28}
_ONE_LAYER_FULL = {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
_GEMMA3N = {
    "layer_types": MIXED,
    "intermediate_size": [96] * 4,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 128,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "activation_sparsity_pattern": [0.0] * 4,
}
_GEMMA4 = {
    "layer_types": MIXED,
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 128,
    "hidden_size_per_layer_input": 16,
}
_GEMMA4_ASSISTANT = {
    "layer_types": MIXED,
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 0,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 4,
}
_DOTS3 = {
    **MLA,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 32,
    "swa_kv_lora_rank": 24,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 16,
    "shared_experts_intermediate_size": 32,
}
_QWEN4_EXP = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ngram_vocab_size_base": 128,
    "hc_lowrank": 8,
}
_INKLING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "unpadded_vocab_size": 128,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
    "rel_extent": 64,
}

_GENERIC = """
    afmoe apertus arcee aria_text bart beam bert bert-generation big_bird bigbird_pegasus
    biogpt bitnet blenderbot blenderbot-small bloom camembert codegen cohere cohere2_moe ctrl
    cwm data2vec-text deepseek_v4 diffllama doge dots1 electra emu3 ernie ernie4_5
    ernie4_5_moe exaone_moe falcon falcon_mamba flex_olmo flint gemma git glm glm4 glm4_moe
    gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese gptj granite granite_swa granitemoe
    granitemoe_swa granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3
    hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm3 llama llama4
    llama4_text mamba marian mbart megatron-bert mellum mimo_v2_flash minimax minimax_m2
    minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder mpt mvp
    nanochat nemotron nemotron_h olmo olmo2 olmo_hybrid olmoe openai-gpt opt pegasus persimmon
    phi phi3 phi4_multimodal phimoe prophetnet qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next recurrent_gemma rembert roberta
    roberta-prelayernorm roformer rwkv seed_oss smollm3 solar_open stablelm starcoder2 trocr
    vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet
"""

_WITH_SETTINGS: dict[str, dict[str, Any]] = {
    "axk1": MLA,
    "axk2": MLA,
    "bailing_hybrid": {**MLA, **_ONE_LAYER_FULL},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {
        "encoder_hash_byte_group_vocab": 16,
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    "cohere2": {"layer_types": MIXED},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "cpmant": {"dim_head": 16, "dim_ff": 96, "prompt_length": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 96, "moe_top_k": 2},
    },
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
    "deepseek_v32": MLA,
    "dots3_note": {
        "text_config": _DOTS3,
        "vision_config": {
            "pyramid_num_routed": [-1] * 4,
            "adapter_in_dim": 64,
            "adapter_out_dim": 64,
        },
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
    },
    "dots3_note_text": _DOTS3,
    "exaone4": {"layer_types": MIXED},
    "falcon_h1": {"mamba_n_heads": 4},
    "fuyu": {"text_config": {"model_type": "persimmon"}, "image_size": 30},
    "gemma2": {"layer_types": MIXED},
    "gemma3": {"text_config": {"layer_types": MIXED}, "vision_config": _TINY_SIGHT},
    "gemma3_text": {"layer_types": MIXED},
    "gemma3n": {"text_config": _GEMMA3N},
    "gemma3n_text": _GEMMA3N,
    "gemma4": {"text_config": _GEMMA4, "vision_config": {"position_embedding_size": 64}},
    "gemma4_assistant": {
        "text_config": {"model_type": "gemma4_text", **_GEMMA4_ASSISTANT},
        "backbone_hidden_size": 64,
        "num_centroids": 16,
    },
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {
        "text_config": {"layer_types": MIXED, "global_head_dim": 32},
        "vision_config": {"mm_embed_dim": 64, "mm_posemb_size": 16, "output_proj_dims": 64},
    },
    "gemma4_unified_assistant": {
        "text_config": {
            "model_type": "gemma4_unified_text",
            "layer_types": MIXED,
            "global_head_dim": 32,
            "num_kv_shared_layers": 4,
        },
        "backbone_hidden_size": 64,
        "num_centroids": 16,
    },
    "gemma4_unified_text": {"layer_types": MIXED, "global_head_dim": 32},
    "glm4_moe_lite": MLA,
    "glm_moe_dsa": MLA,
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 48},
    "gpt_oss": {"layer_types": MIXED},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hy_v4": MLA,
    "inkling2_text": _INKLING,
    "inkling_text": _INKLING,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**MLA, **_ONE_LAYER_FULL, "linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {
        **MLA,
        "head_dim": 8,
        "num_layers": 2,
        "zero_expert_num": 2,
        "moe_topk": 2,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
    },
    "laguna": {"layer_types": MIXED},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "minicpm3": MLA,
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "moshi": {"audio_vocab_size": 64},
    "moss_transcribe_diarize": {"text_config": {"model_type": "qwen3"}},
    "musicgen": {"model_type": "musicgen_decoder", "num_codebooks": 1},
    "musicgen_melody": {"model_type": "musicgen_melody_decoder", "num_codebooks": 1},
    "olmo3": {"layer_types": MIXED},
    "plbart": {"decoder_layers": 4},
    "qwen4_exp": {"text_config": _QWEN4_EXP},
    "qwen4_exp_text": _QWEN4_EXP,
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": (16, 32),
        "axial_pos_embds_dim": (32, 32),
        "attention_head_size": 16,
        "attn_layers": ("local",) * 4,
    },
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128},
    "xlstm": {"num_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "youtu": MLA,
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: {"model_type": name} for name in _GENERIC.split()},
    **{name: {"model_type": name, **settings} for name, settings in _WITH_SETTINGS.items()},
    **VARIANTS,
}
