"""A worker's paged cache without an engine, and the toy model's tokens in it."""

from __future__ import annotations

import torch

from cachegen.engines.vllm.layout.paged import PagedCache
from cachegen.engines.vllm.layout.shapes import LayerSpec, layer_blocks
from tests.toy import DIM, HEADS, NUM_LAYERS

SIZE = 16


def toy_pages(num_blocks: int = 64) -> PagedCache:
    """Blocks of 16 tokens in one group, full of sevens."""
    specs = tuple(
        LayerSpec(f"layers.{index}", 0, SIZE, HEADS, DIM, DIM, torch.bfloat16)
        for index in range(NUM_LAYERS)
    )
    layers = (
        layer_blocks(
            torch.full((num_blocks, HEADS, SIZE, 2 * DIM), 7.0, dtype=torch.bfloat16),
            spec,
            num_blocks=num_blocks,
        )
        for spec in specs
    )
    return PagedCache(specs, tuple(layers))
