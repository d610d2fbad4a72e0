"""Tiny models whose caches are real."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from cachegen.engines.transformers import capture, rope_map
from cachegen.evaluation.methods.registry import MethodContext
from tests.evaluation.methods.caches import HEADS, VOCABULARY, text

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(scope="session")
def tiny() -> MakeModel:
    """A shared model with so many heads."""

    @cache
    def make(heads: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        queries, shared = HEADS[heads]
        config = CONFIG_MAPPING["llama"](
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=queries,
            num_key_value_heads=shared,
            max_position_embeddings=1024,
            initializer_range=0.5,
        )
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    return make


@pytest.fixture(scope="session")
def context(tiny: MakeModel) -> MethodContext:
    """Everything but a profile."""
    model = tiny("gqa", torch.bfloat16)
    geometry = capture(model, text(2, 0)).geometry
    texts = [text(150, seed) for seed in range(3)]
    return MethodContext(model, geometry, rope_map(model), texts)
