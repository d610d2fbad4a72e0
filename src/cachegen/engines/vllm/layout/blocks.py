"""One layer's tensor of blocks: gathered into planes of tokens, and scattered back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Of gathered blocks, contiguous: views of their keys and of their values, each (heads, blocks,
# digits of a token's place in its block..., digits of a dimension...). One digit of each where
# tokens are rows, several where a kernel packs them into tiles.
Split = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class LayerBlocks:
    """A layer's keys and values in blocks.

    Attributes:
        tensor: as the engine allocated it, of any strides, 8-bit floats as bytes.
        dtype: of keys and values.
        block_dim: the dimension that counts blocks.
        block_tokens: tokens of a block as ids count them.
        split: finds keys and values in gathered blocks.
        ratio: the kernel's blocks in one of the engine's, which ids count.
    """

    tensor: torch.Tensor
    dtype: torch.dtype
    block_dim: int
    block_tokens: int
    split: Split
    ratio: int = 1

    def read(self, blocks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (heads, tokens, dim) of all tokens of some blocks, at least one.

        One gather, and a copy of each.
        """
        ids = self._kernel_blocks(blocks)
        keys, values = self.split(self.tensor.index_select(self.block_dim, ids))
        num_tokens = len(blocks) * self.block_tokens
        return self._plane(keys, num_tokens), self._plane(values, num_tokens)

    def write(self, blocks: Sequence[int], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put tokens (heads, tokens, dim) into some blocks: one scatter.

        What the tokens leave of the last block becomes zeros.

        Raises:
            ValueError: more tokens than the blocks hold, or blocks that no token goes into.
        """
        num_tokens, room = keys.shape[1], len(blocks) * self.block_tokens
        if not room - self.block_tokens < num_tokens <= room:
            raise ValueError(
                f"expected tokens for {len(blocks)} blocks of {self.block_tokens}, got {num_tokens}"
            )
        ids = self._kernel_blocks(blocks)
        shape = [*self.tensor.shape]
        shape[self.block_dim] = len(ids)
        staged = self.tensor.new_empty(shape)
        for target, rows in zip(self.split(staged), (keys, values), strict=True):
            target.copy_(_filled(rows.view(staged.dtype), room).reshape(target.shape))
        self.tensor.index_copy_(self.block_dim, ids, staged)

    def _kernel_blocks(self, blocks: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor(blocks, dtype=torch.int64, device=self.tensor.device)
        if self.ratio == 1:
            return ids
        parts = torch.arange(self.ratio, device=ids.device)
        return (ids[:, None] * self.ratio + parts).reshape(-1)

    def _plane(self, view: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """A view of gathered blocks as (heads, tokens, dim), in memory of its own."""
        return view.contiguous().reshape(view.shape[0], num_tokens, -1).view(self.dtype)


def stored_as(dtype: torch.dtype) -> torch.dtype:
    """The type of blocks: 8-bit floats are kept as bytes, since few operations take them."""
    return torch.uint8 if dtype.itemsize == 1 else dtype


def _filled(rows: torch.Tensor, num_tokens: int) -> torch.Tensor:
    missing = num_tokens - rows.shape[1]
    if not missing:
        return rows
    return torch.cat((rows, rows.new_zeros((rows.shape[0], missing, rows.shape[2]))), dim=1)
