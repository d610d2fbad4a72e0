"""Tiny random models of many architectures, made once and shared: treat them as read-only."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCABULARY = 128
WINDOW = 16
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
_MIXED = ["sliding_attention", "full_attention"] * 2
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 128,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-llama3": {"model_type": "llama", "rope_parameters": _LLAMA3},
    "llama-yarn": {"model_type": "llama", "rope_parameters": _YARN},
    "llama-dynamic": {"model_type": "llama", "rope_parameters": _DYNAMIC},
    "llama-longrope": {"model_type": "llama", "rope_parameters": _LONGROPE},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _MIXED,
    },
    "gemma3n": {
        "model_type": "gemma3n_text",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": _MIXED,
        "intermediate_size": [96] * 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW},
    "deepseek-v2": {"model_type": "deepseek_v2", **_MLA},
    "deepseek-v3": {"model_type": "deepseek_v3", **_MLA},
    "deepseek-v3.2": {
        "model_type": "deepseek_v32",
        **_MLA,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 16,
    },
    "stablelm": {"model_type": "stablelm", "partial_rotary_factor": 0.25},
    "glm": {"model_type": "glm", "head_dim": 16, "partial_rotary_factor": 0.5},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {**_YARN, "truncate": False},
    },
    "smollm3": {"model_type": "smollm3"},
    "gpt2": {"model_type": "gpt2"},
    "phi3": {"model_type": "phi3"},
    "gptj": {"model_type": "gptj", "rotary_dim": 8},
    "codegen": {"model_type": "codegen", "rotary_dim": 8},
    "roformer": {"model_type": "roformer", "is_decoder": True},
    "nanochat": {"model_type": "nanochat"},
    "qwen3-next": {
        "model_type": "qwen3_next",
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "falcon-h1": {
        "model_type": "falcon_h1",
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
    },
}

MakeModel = Callable[..., PreTrainedModel]


def make_model(
    name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any
) -> PreTrainedModel:
    described = {**_SIZES, **ARCHITECTURES[name], **settings}
    config = CONFIG_MAPPING[described.pop("model_type")](**described)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models run fastest on one thread, and the same way every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def new_model() -> MakeModel:
    """Make a model that the test may change."""
    return make_model


@pytest.fixture(scope="session")
def tiny() -> MakeModel:
    """A shared model by name and dtype."""
    return cache(make_model)


IMAGE = 120
IMAGE_TOKENS = 16


@pytest.fixture
def llava() -> LlavaForConditionalGeneration:
    """A tiny model that reads images of 16 x 16 pixels, each as 16 tokens."""
    sizes = {**_SIZES, "num_hidden_layers": 2}
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**sizes).to_dict(),
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
    )
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """A random text of 100 tokens, longer than several windows."""
    return torch.randint(3, VOCABULARY, (100,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def ascii_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each ASCII character, its code; 1 before every text."""
    backend = Tokenizer(WordLevel({chr(code): code for code in range(VOCABULARY)}, unk_token="?"))
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = Fuse()
    backend.post_processor = TemplateProcessing(single="\x01 $A", special_tokens=[("\x01", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)
