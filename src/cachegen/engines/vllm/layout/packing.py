"""How a kernel packs keys and values inside a block, learned from the kernel itself.

vLLM's CPU kernels store a block of a head as tiles of their own, another for every instruction set.
They are asked with blocks whose values are one bit of their own place each; what comes out must be
digits of places, each with one stride, and must then read back what the kernel wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cachegen.engines.vllm.layout.blocks import LayerBlocks, stored_as
from cachegen.errors import UnsupportedCache

# Writes keys and values (tokens, heads, dim) to slots of blocks (blocks, heads, tokens, 2 * dim).
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
Digits = tuple[tuple[int, int], ...]

# Of the check: blocks there are, blocks written in this order, heads. Arbitrary: any few do.
_CHECK_BLOCKS, _CHECK_WRITTEN, _CHECK_HEADS = 4, (2, 0, 3), 2


@dataclass(frozen=True, slots=True)
class Tiles:
    """Where keys, or values, of a head lie in its part of a block.

    Attributes:
        tokens: size and stride of each digit of a token's place, highest first.
        dims: likewise of a dimension.
    """

    tokens: Digits
    dims: Digits


@dataclass(frozen=True, slots=True)
class Packing:
    """A kernel's way: the first half of a head's part of a block holds keys, the second values.

    Attributes:
        keys, values: of each half.
    """

    keys: Tiles
    values: Tiles

    def split(self, gathered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values in gathered blocks (blocks, heads, tokens, 2 * dim), contiguous."""
        half = gathered.shape[2] * gathered.shape[3] // 2
        return _view(gathered, self.keys, at=0), _view(gathered, self.values, at=half)


def learn_packing(
    kernel: Kernel, *, block_tokens: int, dim: int, dtype: torch.dtype, written: torch.dtype
) -> Packing:
    """Ask a kernel where it puts what.

    Args:
        kernel: writes tokens to slots.
        block_tokens: tokens of a block.
        dim: of a head.
        dtype: of values in blocks.
        written: of what the kernel is given.

    Raises:
        UnsupportedCache: what comes out is no order of places, or not one of digits.
    """
    halves = _places(kernel, block_tokens, dim, dtype, written)
    found = [_tiles(places.view(block_tokens, dim), name) for name, places in halves.items()]
    packing = Packing(*found)
    _check(packing, kernel, block_tokens=block_tokens, dim=dim, dtype=dtype, written=written)
    return packing


def _places(
    kernel: Kernel, block_tokens: int, dim: int, dtype: torch.dtype, written: torch.dtype
) -> dict[str, torch.Tensor]:
    """Of keys and values, where each of a block's numbers lies, int64 (tokens * dim,)."""
    size = block_tokens * dim
    numbers = torch.arange(1, size + 1)  # 0 is what nobody wrote to
    seen = torch.zeros(2, size, dtype=torch.int64)
    for bit in range(size.bit_length()):
        block = torch.zeros(1, 1, block_tokens, 2 * dim, dtype=stored_as(dtype))
        ones = (numbers >> bit & 1).view(block_tokens, 1, dim).to(written)
        kernel(ones, ones, block, torch.arange(block_tokens))
        seen += (block.view(2, size) != 0).long() << bit
    places = {"keys": seen[0].argsort(), "values": seen[1].argsort()}
    if not all(torch.equal(half.sort().values, numbers) for half in seen):
        raise UnsupportedCache(
            "the attention kernel's cache does not hold every number that it was given, once: "
            "its packing cannot be undone"
        )
    return places


def _tiles(places: torch.Tensor, name: str) -> Tiles:
    """Digits of places (tokens, dim), if that is what they are."""
    tokens, dims = (tuple(_digits(line.tolist())) for line in (places[:, 0], places[0]))
    tiles = Tiles(tokens, dims)
    if not torch.equal(_counted(tokens)[:, None] + _counted(dims), places):
        raise UnsupportedCache(
            f"the attention kernel packs {name} of a block of {places.shape[0]} tokens of "
            f"{places.shape[1]} in an order that is not one of digits of places: not known here"
        )
    return tiles


def _digits(line: list[int]) -> list[tuple[int, int]]:
    """Sizes and strides, highest first, of a sequence that counts by digits from 0 on."""
    if len(line) == 1:
        return []
    stride, size = line[1], 1
    while size < len(line) and line[size] == size * stride:
        size += 1
    while len(line) % size:
        size -= 1
    if size == 1:
        return [(len(line), stride)]  # no digits: what follows finds that it does not fit
    return [*_digits(line[::size]), (size, stride)]


def _counted(digits: Digits) -> torch.Tensor:
    """What digits count up to, int64."""
    found = torch.zeros(1, dtype=torch.int64)
    for size, stride in digits:
        found = (found[:, None] + torch.arange(size) * stride).reshape(-1)
    return found


def _view(gathered: torch.Tensor, tiles: Tiles, *, at: int) -> torch.Tensor:
    """(heads, blocks, digits of tokens..., digits of dimensions...) of contiguous blocks."""
    blocks, heads = gathered.shape[:2]
    digits = (*tiles.tokens, *tiles.dims)
    return gathered.as_strided(
        (heads, blocks, *(size for size, _ in digits)),
        (gathered.stride(1), gathered.stride(0), *(stride for _, stride in digits)),
        gathered.storage_offset() + at,
    )


def _check(
    packing: Packing,
    kernel: Kernel,
    *,
    block_tokens: int,
    dim: int,
    dtype: torch.dtype,
    written: torch.dtype,
) -> None:
    """Read what the kernel wrote, and write what it must find, in several blocks and heads."""
    num_tokens = len(_CHECK_WRITTEN) * block_tokens
    made = torch.Generator().manual_seed(0)
    # Small integers, which every type holds.
    draw = partial(torch.randint, -4, 5, (num_tokens, _CHECK_HEADS, dim), generator=made)
    keys, values = draw().to(written), draw().to(written)
    shape = (_CHECK_BLOCKS, _CHECK_HEADS, block_tokens, 2 * dim)
    blocks, again = (torch.zeros(shape, dtype=stored_as(dtype)) for _ in range(2))
    slots = (torch.tensor(_CHECK_WRITTEN)[:, None] * block_tokens).add(torch.arange(block_tokens))
    kernel(keys, values, blocks, slots.reshape(-1))
    read = LayerBlocks(blocks, dtype, 0, block_tokens, packing.split).read(_CHECK_WRITTEN)
    LayerBlocks(again, dtype, 0, block_tokens, packing.split).write(_CHECK_WRITTEN, *read)
    expected = (rows.transpose(0, 1).to(dtype).float() for rows in (keys, values))
    is_read = all(torch.equal(g.float(), e) for g, e in zip(read, expected, strict=True))
    if not is_read or not torch.equal(again, blocks):
        raise UnsupportedCache(
            f"what the attention kernel wrote into blocks of {block_tokens} tokens of {dim} values "
            f"of {dtype} was not read back: its packing is not understood, and nothing of this "
            "cache can be stored"
        )
