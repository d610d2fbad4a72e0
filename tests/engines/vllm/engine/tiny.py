"""A tiny Llama with random weights, and prompts for it."""

from __future__ import annotations

import random
from pathlib import Path

VOCABULARY = 512


def write_llama(folder: Path, *, seed: int = 0) -> None:
    """2.6 million parameters, in bfloat16; a wide distribution, so that texts are not one word."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def write_gemma(folder: Path, *, window: int) -> None:
    """Gemma 3: five layers with windows, and one that sees everything."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=window,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)


def prompt(num_tokens: int, seed: int = 0, *, vocabulary: int = VOCABULARY) -> list[int]:
    """Random token ids, none of them special."""
    draw = random.Random(seed)
    return [draw.randrange(3, vocabulary) for _ in range(num_tokens)]
