"""Packings are learned from whoever writes blocks; here from writers of known ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cachegen.engines.vllm.layout.blocks import LayerBlocks
from cachegen.engines.vllm.layout.packing import Kernel, Tiles, learn_packing
from cachegen.errors import UnsupportedCache

# Where a token's dimension lies in its half of a block: (token, dim, tokens, dims) -> place.
Place = Callable[[int, int, int, int], int]


def rows(n: int, d: int, _: int, dims: int) -> int:
    return n * dims + d


def transposed(n: int, d: int, tokens: int, _: int) -> int:
    return d * tokens + n


def tiled_keys(n: int, d: int, _: int, dims: int) -> int:
    """``[N / 16][D / 2][16][2]``, as AMX kernels keep keys."""
    return n // 16 * dims * 16 + d // 2 * 32 + n % 16 * 2 + d % 2


def tiled_values(n: int, d: int, tokens: int, _: int) -> int:
    """``[D / 16][N / 2][16][2]``, as AMX kernels keep values."""
    return d // 16 * tokens * 16 + n // 2 * 32 + d % 16 * 2 + n % 2


def swapped(n: int, d: int, tokens: int, dims: int) -> int:
    """Rows, but for two numbers: no digits."""
    place = rows(n, d, tokens, dims)
    return {5: 6, 6: 5}.get(place, place)


def lost(n: int, d: int, tokens: int, dims: int) -> int:
    return max(1, rows(n, d, tokens, dims))


def writer(keys_at: Place, values_at: Place) -> Kernel:
    def write(
        keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor, slots: torch.Tensor
    ) -> None:
        size, dims = blocks.shape[2], keys.shape[2]
        token, dim = torch.meshgrid(torch.arange(size), torch.arange(dims), indexing="ij")
        pairs = list(zip(token.flatten().tolist(), dim.flatten().tolist(), strict=True))
        flat = blocks.view(*blocks.shape[:2], 2, -1)
        for half, (place, given) in enumerate(((keys_at, keys), (values_at, values))):
            places = torch.tensor([place(n, d, size, dims) for n, d in pairs]).view(size, dims)
            for row, slot in zip(given, slots.tolist(), strict=True):
                stored = (
                    row.to(torch.float8_e4m3fn).view(torch.uint8)
                    if (blocks.dtype == torch.uint8)
                    else row.to(blocks.dtype)
                )
                flat[slot // size, :, half, places[slot % size]] = stored

    return write


WAYS = {
    "rows": (rows, rows),
    "transposed keys": (transposed, rows),
    "tiles": (tiled_keys, tiled_values),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize(("block_tokens", "dim"), [(32, 32), (32, 80), (64, 16)])
@pytest.mark.parametrize("way", WAYS)
def test_known_ways_are_learned(way: str, block_tokens: int, dim: int, dtype: torch.dtype) -> None:
    kernel = writer(*WAYS[way])
    packing = learn_packing(
        kernel, block_tokens=block_tokens, dim=dim, dtype=dtype, written=torch.float32
    )
    stored = torch.uint8 if dtype.itemsize == 1 else dtype
    blocks = torch.zeros(3, 2, block_tokens, 2 * dim, dtype=stored)
    made = torch.Generator().manual_seed(2)
    keys, values = torch.randint(-8, 9, (2, block_tokens, 2, dim), generator=made).float()
    kernel(keys, values, blocks, torch.arange(block_tokens) + 2 * block_tokens)
    read = LayerBlocks(blocks, dtype, 0, block_tokens, packing.split).read([2])
    assert torch.equal(read[0].float(), keys.transpose(0, 1))
    assert torch.equal(read[1].float(), values.transpose(0, 1))


def test_tiles_are_named_by_digits() -> None:
    packing = learn_packing(
        writer(tiled_keys, tiled_values),
        block_tokens=32,
        dim=64,
        dtype=torch.bfloat16,
        written=torch.bfloat16,
    )
    assert packing.keys == Tiles(((2, 1024), (16, 2)), ((32, 32), (2, 1)))
    assert packing.values == Tiles(((16, 32), (2, 1)), ((4, 512), (16, 2)))


@pytest.mark.parametrize(
    ("way", "reason"), [(swapped, "not one of digits"), (lost, "cannot be undone")]
)
def test_ways_that_are_not_understood_are_refused(way: Place, reason: str) -> None:
    for kernel in (writer(way, rows), writer(rows, way)):
        with pytest.raises(UnsupportedCache, match=reason):
            learn_packing(
                kernel, block_tokens=16, dim=8, dtype=torch.float32, written=torch.float32
            )


def test_a_kernel_that_is_not_the_same_everywhere_is_refused() -> None:
    """It packs heads of blocks with more than one head otherwise than what it was asked with."""

    def kernel(
        keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor, slots: torch.Tensor
    ) -> None:
        way = rows if blocks.shape[1] == 1 else transposed
        writer(way, rows)(keys, values, blocks, slots)

    with pytest.raises(UnsupportedCache, match="not read back"):
        learn_packing(kernel, block_tokens=16, dim=8, dtype=torch.float32, written=torch.float32)
