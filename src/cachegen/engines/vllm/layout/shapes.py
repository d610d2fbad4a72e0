"""Which layout a layer's tensor has, by its shape and what the engine says of the layer.

Three families: blocks of rows ``[B, H, N, K|V]`` in any physical order (the strides tell), as vLLM
lays them out since mid-2026; the older ``[2, B, N, H, D]`` and ``[B, 2, N, H, D]``; latent rows of
MLA ``[B, N, C]`` or ``[B, 1, N, C]``. Not run on a GPU: tested on tensors of these layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from cachegen.engines.vllm.layout.blocks import LayerBlocks, Split, stored_as
from cachegen.errors import UnsupportedCache


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """An attention layer of this rank, as the engine describes it.

    Attributes:
        name: the engine's.
        group: its KV cache group, whose block ids are those of its blocks.
        block_tokens: tokens of a block as the engine's ids count them.
        heads: of keys and values, on this rank.
        key_dim: of a head; of MLA, the latent's width.
        value_dim: of a head; of MLA, the width of the part that is rotated.
        dtype: of the values in memory.
        window: tokens a token attends to, itself included, where the engine drops those before;
            0 where it keeps all.
        is_latent: MLA, whose rows are a latent and a rotated part instead of keys and values.
        has_pairs: of MLA: in memory the two of a rotated pair are neighbours, and transformers
            keeps all first ones, then all second ones.
    """

    name: str
    group: int
    block_tokens: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    window: int = 0
    is_latent: bool = False
    has_pairs: bool = False


def layer_blocks(
    tensor: torch.Tensor, spec: LayerSpec, *, num_blocks: int, split: Split | None = None
) -> LayerBlocks:
    """A layer's tensor, understood.

    Args:
        tensor: as it was registered.
        spec: of the layer.
        num_blocks: as the engine's ids count them.
        split: of blocks of rows that a kernel packs; by default each row is a token.

    Raises:
        UnsupportedCache: a shape that is none of the known ones, or may be two of them.
    """
    typed = _typed(tensor, spec)
    if spec.is_latent:
        return _latent(typed, spec, num_blocks)
    if typed.ndim == 5:
        return _pair(typed, spec, num_blocks)
    block = (spec.heads, -1, spec.key_dim + spec.value_dim)
    ratio = _ratio(typed, spec, num_blocks, block_dim=0, token_dim=2, rest=block)
    return _made(typed, spec, 0, split or partial(_split_rows, key_dim=spec.key_dim), ratio)


def _typed(tensor: torch.Tensor, spec: LayerSpec) -> torch.Tensor:
    """As blocks are stored: 8-bit floats as bytes."""
    stored = stored_as(spec.dtype)
    if tensor.dtype in (spec.dtype, stored):
        return tensor.view(stored)
    raise UnsupportedCache(f"layer {spec.name}: expected {spec.dtype}, got {tensor.dtype}")


def _split_rows(gathered: torch.Tensor, *, key_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    by_head = gathered.transpose(0, 1)
    return by_head[..., :key_dim], by_head[..., key_dim:]


def _latent(tensor: torch.Tensor, spec: LayerSpec, num_blocks: int) -> LayerBlocks:
    """``[B, N, C]`` or ``[B, 1, N, C]``."""
    rows = tensor[:, None] if tensor.ndim == 3 else tensor
    rest = (1, -1, spec.key_dim + spec.value_dim)
    ratio = _ratio(rows, spec, num_blocks, block_dim=0, token_dim=2, rest=rest)
    split = partial(_split_latent, key_dim=spec.key_dim, has_pairs=spec.has_pairs)
    return _made(rows, spec, 0, split, ratio)


def _split_latent(
    gathered: torch.Tensor, *, key_dim: int, has_pairs: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    latent, rotated = _split_rows(gathered, key_dim=key_dim)
    pairs = rotated.view(*rotated.shape[:-1], -1, 2)
    return latent, pairs.transpose(-1, -2) if has_pairs else rotated


def _pair(tensor: torch.Tensor, spec: LayerSpec, num_blocks: int) -> LayerBlocks:
    """``[2, B, N, H, D]`` or ``[B, 2, N, H, D]``."""
    places = [dim for dim in (0, 1) if tensor.shape[dim] == 2 and tensor.shape[1 - dim] != 2]
    if len(places) != 1 or spec.key_dim != spec.value_dim:
        raise _unknown(tensor, spec)
    pair_dim, rest = places[0], (-1, spec.heads, spec.key_dim)
    ratio = _ratio(tensor, spec, num_blocks, block_dim=1 - pair_dim, token_dim=2, rest=rest)
    return _made(tensor, spec, 1 - pair_dim, partial(_split_pair, pair_dim=pair_dim), ratio)


def _split_pair(gathered: torch.Tensor, *, pair_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = gathered.unbind(pair_dim)
    return keys.permute(2, 0, 1, 3), values.permute(2, 0, 1, 3)


def _made(
    tensor: torch.Tensor, spec: LayerSpec, block_dim: int, split: Split, ratio: int
) -> LayerBlocks:
    return LayerBlocks(tensor, spec.dtype, block_dim, spec.block_tokens, split, ratio)


def _ratio(
    tensor: torch.Tensor,
    spec: LayerSpec,
    num_blocks: int,
    *,
    block_dim: int,
    token_dim: int,
    rest: tuple[int, ...],
) -> int:
    """The kernel's blocks in one of the engine's; the last dimensions must be `rest`, -1 any."""
    last = tensor.shape[tensor.ndim - len(rest) :]
    fits = tensor.ndim > len(rest) and all(
        want in (-1, got) for got, want in zip(last, rest, strict=True)
    )
    blocks, tokens = (tensor.shape[block_dim], tensor.shape[token_dim]) if fits else (0, 1)
    if not blocks or blocks % num_blocks or blocks // num_blocks * tokens != spec.block_tokens:
        raise _unknown(tensor, spec)
    return blocks // num_blocks


def _unknown(tensor: torch.Tensor, spec: LayerSpec) -> UnsupportedCache:
    row = spec.key_dim + spec.value_dim
    return UnsupportedCache(
        f"layer {spec.name}: a tensor {tuple(tensor.shape)} is no layout known here: expected "
        f"[blocks, {spec.heads} heads, {spec.block_tokens} tokens, {row}] or, of older versions, "
        f"[2, blocks, {spec.block_tokens}, {spec.heads}, {spec.key_dim}], unambiguously; set "
        "VLLM_KV_CACHE_LAYOUT to another layout"
    )
