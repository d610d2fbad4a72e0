"""What the scheduler's side needs to know of KV cache groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cachegen.engines.vllm.layout.shapes import LayerSpec


@dataclass(frozen=True, slots=True)
class Grouping:
    """Blocks of all groups, and the group that stands for them.

    Attributes:
        align_tokens: blocks of every group end at the multiples of this.
        group: one that keeps all tokens of a request, if there is any.
        block_tokens: of that group's blocks.
    """

    align_tokens: int
    group: int
    block_tokens: int

    def ends_at(self, num_tokens: int) -> int:
        """How many of the group's blocks so many tokens take."""
        return -(-num_tokens // self.block_tokens)


def grouping_of(specs: Sequence[LayerSpec], *, chunk_tokens: int) -> Grouping:
    """The grouping of layers.

    Raises:
        ValueError: chunks do not end where blocks end, or are longer than what windows keep.
    """
    align = math.lcm(*(spec.block_tokens for spec in specs))
    if chunk_tokens % align:
        raise ValueError(
            f"expected chunk_tokens as a multiple of vLLM's block size {align}, got {chunk_tokens}"
        )
    windows = [spec.window for spec in specs if spec.window]
    if windows and chunk_tokens >= min(windows):
        raise ValueError(
            f"expected chunk_tokens below the model's window of {min(windows)} tokens, got "
            f"{chunk_tokens}: vLLM drops what is behind it before a longer chunk is whole"
        )
    main = next((spec for spec in specs if not spec.window), specs[0])
    return Grouping(align, main.group, main.block_tokens)
