"""Rotations and windows of a model's planes, asked of a small model of its configuration.

Which planes turn, how fast and in which pairs does not depend on weights: a model with the same
heads, of few and random weights, tells. Nothing of the real weights is read.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from cachegen.codec.rope import RopeMap
from cachegen.engines.transformers.layers import windows_of
from cachegen.engines.transformers.rope import rope_map

# Widths that heads do not depend on, made small. Arbitrary: 16 to 256 do.
_SMALL = 64
_WIDTHS = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "vocab_size",
    "vocab_size_per_layer_input",
)


@dataclass(frozen=True, slots=True)
class Rotations:
    """Of all layers of a model, not only of one rank's.

    Attributes:
        rope: of every plane.
        windows: of every layer, how many tokens a token attends to; 0 for all before it.
    """

    rope: RopeMap
    windows: tuple[int, ...]


def rotations_of(config: PreTrainedConfig, *, trusts_code: bool = False) -> Rotations | None:
    """Those that a configuration asks for; None for one that makes no model of transformers'."""
    try:
        small = _small(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                small, dtype=torch.float32, trust_remote_code=trusts_code
            ).eval()
        return Rotations(rope_map(model), windows_of(model))
    except Exception:  # of no class that is known here, or made otherwise
        return None


def _small(config: PreTrainedConfig) -> PreTrainedConfig:
    small = deepcopy(config)
    text = small.get_text_config(decoder=True)
    for part in {id(part): part for part in (small, text)}.values():
        for name in _WIDTHS:
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, min(getattr(part, name), _SMALL))
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(part, name, None)
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    if getattr(text, "head_dim", None):
        text.hidden_size = min(text.hidden_size, _SMALL)
    return small
