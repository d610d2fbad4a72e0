"""Every layout that vLLM gives a layer's blocks: tokens are read from where they lie, and put back.

Layouts of GPUs are tried on tensors of the same shapes and strides on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cachegen.engines.vllm.layout.shapes import LayerSpec, layer_blocks
from cachegen.errors import UnsupportedCache

BLOCKS, HEADS, DIM = 7, 3, 8
# Gives the key and the value of a token, as views of a tensor of blocks.
Place = Callable[[torch.Tensor, int, int, int], tuple[torch.Tensor, torch.Tensor]]


def rows(tensor: torch.Tensor, block: int, slot: int, head: int) -> tuple[torch.Tensor, ...]:
    row = tensor[block, head, slot]
    return row[:DIM], row[DIM:]


def pair_first(tensor: torch.Tensor, block: int, slot: int, head: int) -> tuple[torch.Tensor, ...]:
    return tensor[0, block, slot, head], tensor[1, block, slot, head]


def pair_second(tensor: torch.Tensor, block: int, slot: int, head: int) -> tuple[torch.Tensor, ...]:
    return tensor[block, 0, slot, head], tensor[block, 1, slot, head]


def dense(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


LAYOUTS: dict[str, tuple[Callable[[int], torch.Tensor], Place]] = {
    "LBHNC": (lambda n: dense(BLOCKS, HEADS, n, 2 * DIM), rows),
    "LBNHC": (lambda n: dense(BLOCKS, n, HEADS, 2 * DIM).transpose(1, 2), rows),
    "LHBNC": (lambda n: dense(HEADS, BLOCKS, n, 2 * DIM).transpose(0, 1), rows),
    "BLHNC": (lambda n: dense(BLOCKS, 2, HEADS, n, 2 * DIM)[:, 1], rows),
    "BLNHC": (lambda n: dense(BLOCKS, 2, n, HEADS, 2 * DIM)[:, 1].transpose(1, 2), rows),
    "BHLNC": (lambda n: dense(BLOCKS, HEADS, 2, n, 2 * DIM)[:, :, 1], rows),
    "2BNHD": (lambda n: dense(2, BLOCKS, n, HEADS, DIM), pair_first),
    "2BNHD as 2BHND": (lambda n: dense(2, BLOCKS, HEADS, n, DIM).transpose(2, 3), pair_first),
    "B2NHD": (lambda n: dense(BLOCKS, 2, n, HEADS, DIM), pair_second),
    "B2NHD as B2HND": (lambda n: dense(BLOCKS, 2, HEADS, n, DIM).transpose(2, 3), pair_second),
}


def spec(block_tokens: int, **changes: object) -> LayerSpec:
    settings = {
        "heads": HEADS, "key_dim": DIM, "value_dim": DIM, "dtype": torch.bfloat16, **changes
    }  # fmt: skip
    return LayerSpec("layer", 0, block_tokens, **settings)  # type: ignore[arg-type]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("block_tokens", [16, 32, 128])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_read_from_where_they_lie(layout: str, block_tokens: int) -> None:
    make, place = LAYOUTS[layout]
    tensor = make(block_tokens)
    tensor.copy_(drawn(*tensor.shape))
    layer = layer_blocks(tensor, spec(block_tokens), num_blocks=BLOCKS)
    keys, values = layer.read([5, 1, 4])
    assert keys.shape == values.shape == (HEADS, 3 * block_tokens, DIM)
    for token in (0, 1, block_tokens - 1, block_tokens, 3 * block_tokens - 1):
        block, slot = (5, 1, 4)[token // block_tokens], token % block_tokens
        for head in range(HEADS):
            key, value = place(tensor, block, slot, head)
            assert torch.equal(keys[head, token], key)
            assert torch.equal(values[head, token], value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_read_and_nothing_else_changes(layout: str) -> None:
    tensor = LAYOUTS[layout][0](16)
    layer = layer_blocks(tensor, spec(16), num_blocks=BLOCKS)
    keys, values = drawn(2, HEADS, 48, DIM)
    layer.write([2, 6, 3], keys, values)
    read = layer.read([2, 6, 3])
    assert torch.equal(read[0], keys)
    assert torch.equal(read[1], values)
    others = layer.read([0, 1, 4, 5])
    assert not others[0].any()
    assert not others[1].any()


def test_rest_of_the_last_block_becomes_zeros() -> None:
    tensor = dense(BLOCKS, HEADS, 16, 2 * DIM).fill_(9)
    layer = layer_blocks(tensor, spec(16), num_blocks=BLOCKS)
    keys, values = drawn(2, HEADS, 20, DIM)
    layer.write([2, 6], keys, values)
    read, _ = layer.read([2, 6])
    assert torch.equal(read[:, :20], keys)
    assert not read[:, 20:].any()


@pytest.mark.parametrize("num_tokens", [0, 16, 33])
def test_tokens_must_be_as_many_as_blocks_take(num_tokens: int) -> None:
    layer = layer_blocks(dense(BLOCKS, HEADS, 16, 2 * DIM), spec(16), num_blocks=BLOCKS)
    keys, values = drawn(2, HEADS, num_tokens, DIM)
    with pytest.raises(ValueError, match="2 blocks of 16"):
        layer.write([2, 6], keys, values)


def test_blocks_of_the_kernel_may_be_parts_of_the_engines() -> None:
    tensor = drawn(4 * BLOCKS, HEADS, 16, 2 * DIM)
    layer = layer_blocks(tensor, spec(64), num_blocks=BLOCKS)
    keys, values = layer.read([3, 1])
    whole = (
        tensor.view(BLOCKS, 4, HEADS, 16, 2 * DIM)
        .transpose(1, 2)
        .reshape(BLOCKS, HEADS, 64, 2 * DIM)[[3, 1]]
    )
    expected = whole.transpose(0, 1).reshape(HEADS, 128, 2 * DIM)
    assert torch.equal(keys, expected[..., :DIM])
    layer.write([0, 2], keys, values)
    assert torch.equal(layer.read([0, 2])[1], values)


def test_keys_and_values_may_differ_in_width() -> None:
    tensor = drawn(BLOCKS, HEADS, 16, DIM + 4)
    keys, values = layer_blocks(tensor, spec(16, value_dim=4), num_blocks=BLOCKS).read([1])
    assert torch.equal(keys, tensor[1, :, :, :DIM])
    assert torch.equal(values, tensor[1, :, :, DIM:])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("stored", [torch.uint8, None])
def test_8_bit_floats_are_kept_bit_by_bit(dtype: torch.dtype, stored: torch.dtype | None) -> None:
    raw = torch.arange(BLOCKS * 16 * 2 * DIM * HEADS).to(torch.uint8)
    tensor = raw.view(BLOCKS, HEADS, 16, 2 * DIM).view(stored or dtype)
    layer = layer_blocks(tensor, spec(16, dtype=dtype), num_blocks=BLOCKS)
    keys, values = layer.read([3, 1])
    assert keys.dtype == values.dtype == dtype
    assert torch.equal(keys[:, :16].view(torch.uint8), tensor[3, :, :, :DIM].view(torch.uint8))
    layer.write([5, 6], keys, values)
    moved = tensor.view(torch.uint8)
    assert torch.equal(moved[[5, 6]], moved[[3, 1]])


@pytest.mark.parametrize("has_heads", [False, True])
def test_latents_and_their_rotated_part(has_heads: bool) -> None:
    tensor = drawn(*((BLOCKS, 1, 16, 12) if has_heads else (BLOCKS, 16, 12)))
    layer = layer_blocks(
        tensor, spec(16, heads=1, key_dim=8, value_dim=4, is_latent=True), num_blocks=BLOCKS
    )
    keys, values = layer.read([4, 2])
    expected = tensor.view(BLOCKS, 16, 12)[[4, 2]].reshape(1, 32, 12)
    assert torch.equal(keys, expected[..., :8])
    assert torch.equal(values, expected[..., 8:])


def test_pairs_of_rotated_parts_are_taken_apart_and_put_together() -> None:
    tensor = drawn(BLOCKS, 1, 16, 14)
    latent = spec(16, heads=1, key_dim=8, value_dim=6, is_latent=True, has_pairs=True)
    layer = layer_blocks(tensor, latent, num_blocks=BLOCKS)
    keys, values = layer.read([4])
    rotated = tensor[4, 0, :, 8:]
    assert torch.equal(values[0], torch.cat((rotated[:, 0::2], rotated[:, 1::2]), dim=-1))
    layer.write([1], keys, values)
    assert torch.equal(tensor[1], tensor[4])


@pytest.mark.parametrize(
    "shape",
    [
        (BLOCKS, HEADS, 24, 2 * DIM),
        (BLOCKS, HEADS + 1, 16, 2 * DIM),
        (BLOCKS, HEADS, 16, 2 * DIM + 1),
        (BLOCKS + 1, HEADS, 16, 2 * DIM),
        (2, 2, 16, HEADS, DIM),
        (BLOCKS, 3, 16, HEADS, DIM),
        (BLOCKS, 16),
    ],
)
def test_unknown_layouts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedCache, match="no layout known"):
        layer_blocks(dense(*shape), spec(16), num_blocks=2 if shape[0] == 2 else BLOCKS)


def test_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedCache, match="float32"):
        layer_blocks(torch.zeros(BLOCKS, HEADS, 16, 2 * DIM), spec(16), num_blocks=BLOCKS)
