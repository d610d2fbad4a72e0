"""A small model of a configuration turns its planes as the whole model does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from cachegen.engines.transformers import rope_map, windows_of
from cachegen.engines.vllm.identity.rotations import rotations_of
from cachegen.refmodel import weights_path

_SIZES = {
    "vocab_size": 128, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.2,
    "max_position_embeddings": 512, "pad_token_id": 120,
}  # fmt: skip
_MLA = {
    "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": None, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 48,
    "n_shared_experts": 1, "head_dim": 16,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 16, "num_hidden_layers": 6},
    "mistral": {"sliding_window": 24},
    "glm": {"partial_rotary_factor": 0.5},
    "deepseek_v3": _MLA,
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 2},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_are_those_of_the_whole_model(kind: str) -> None:
    config = CONFIG_MAPPING[kind](**{**_SIZES, **CONFIGS[kind]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    found = rotations_of(config)
    assert found is not None
    assert found.rope == rope_map(model)
    assert found.windows == windows_of(model)
    assert any(turn is not None for turn in found.rope.of_plane) == (kind != "gpt2")


def test_are_those_of_the_reference_model() -> None:
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype=torch.bfloat16)
    found = rotations_of(AutoConfig.from_pretrained(weights_path()))
    assert found is not None
    assert found.rope == rope_map(model)


def test_the_configuration_stays_as_it_is_and_so_do_random_numbers() -> None:
    config = CONFIG_MAPPING["llama"](**_SIZES)
    before, state = config.to_dict(), torch.get_rng_state()
    rotations_of(config)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_of_a_configuration_that_makes_no_model_nothing_is_known() -> None:
    assert rotations_of(CONFIG_MAPPING["clip_vision_model"]()) is None
