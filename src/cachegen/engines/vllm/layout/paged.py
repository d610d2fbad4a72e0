"""The paged cache of one rank: a request's blocks to a `KVCache`, and back.

Block ids come as the engine gives them: for every KV cache group, those of a request's blocks from
its first token on. Layers of several groups may share memory; only a group's own blocks are a
layer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from cachegen.engines.vllm.layout.blocks import LayerBlocks
from cachegen.engines.vllm.layout.shapes import LayerSpec
from cachegen.kvcache import Geometry, KVCache, PlaneShape

BlockIds = Sequence[Sequence[int]]

# What stands in a window's list for blocks that the engine has dropped, or never had.
NULL_BLOCK = 0


@dataclass(frozen=True, slots=True, eq=False)
class PagedCache:
    """Layers in the model's order; nothing of it changes, so threads may share it.

    Attributes:
        specs: of the layers.
        layers: their blocks.
    """

    specs: tuple[LayerSpec, ...]
    layers: tuple[LayerBlocks, ...]

    @property
    def geometry(self) -> Geometry:
        """Of what is read, and must be written."""
        return geometry_of(self.specs)

    @property
    def windows(self) -> tuple[int, ...]:
        """Of every layer, behind how many tokens the engine drops tokens; 0 for never."""
        return tuple(spec.window for spec in self.specs)

    def read(self, block_ids: BlockIds, *, start: int, stop: int) -> KVCache:
        """The tokens ``start .. stop`` of a request, copied; one gather a layer.

        Layers whose window has passed some of them hold the last ones that are still there.

        Args:
            block_ids: of every group, from token 0 on.
            start, stop: any tokens that have been computed.

        Raises:
            ValueError: no tokens, or blocks that are missing.
        """
        if not 0 <= start < stop:
            raise ValueError(f"expected 0 <= start < stop, got {start} and {stop}")
        planes = [
            _read(layer, spec, block_ids[spec.group], start=start, stop=stop)
            for layer, spec in zip(self.layers, self.specs, strict=True)
        ]
        keys, values = zip(*planes, strict=True)
        return KVCache(keys, values, stop - start, start)

    def write(self, kv: KVCache, block_ids: BlockIds) -> None:
        """Put tokens into a request's blocks; one scatter a layer.

        Of layers with a window, only what a token behind the last one sees, and what has a block.
        What the tokens leave of the last block becomes zeros.

        Args:
            kv: begins where a block begins, in every layer that holds all of it.
            block_ids: of every group, from token 0 on.

        Raises:
            ValueError: another geometry, a start inside a block, tokens that a layer needs and
                `kv` lacks, or blocks that are missing.
        """
        if kv.geometry != self.geometry:
            raise ValueError(f"expected {self.geometry}, got {kv.geometry}")
        for layer, spec, keys, values in zip(
            self.layers, self.specs, kv.keys, kv.values, strict=True
        ):
            first = _first_block(spec, block_ids[spec.group], kv, held_from=kv.stop - keys.shape[1])
            if chosen := _blocks(spec, block_ids[spec.group], first, kv.stop):
                layer.write(
                    chosen,
                    *(_from(rows, kv.stop, first * spec.block_tokens) for rows in (keys, values)),
                )


def geometry_of(specs: Sequence[LayerSpec]) -> Geometry:
    """Of the layers of a rank.

    Raises:
        ValueError: layers of several types.
    """
    types = {spec.dtype for spec in specs}
    if len(types) != 1:
        raise ValueError(f"expected layers of one type, got {types}")
    planes = (
        PlaneShape(spec.heads, dim) for spec in specs for dim in (spec.key_dim, spec.value_dim)
    )
    return Geometry(tuple(planes), types.pop())


def first_needed(window: int, stop: int) -> int:
    """The first token that a layer needs to go on behind ``stop``; `window` 0 sees all."""
    return max(0, stop - window + 1) if window else 0


def blocks_needed(specs: Sequence[LayerSpec], *, stop: int) -> Mapping[int, range]:
    """By group, the request's blocks that must hold tokens before it goes on behind ``stop``."""
    found = {}
    for spec in specs:
        first = first_needed(spec.window, stop) // spec.block_tokens
        found[spec.group] = range(first, -(-stop // spec.block_tokens))
    return found


def _read(
    layer: LayerBlocks, spec: LayerSpec, ids: Sequence[int], *, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    size = spec.block_tokens
    first = start // size
    if spec.window:
        dropped = [at for at in range(first, min(len(ids), -(-stop // size))) if not ids[at]]
        first = dropped[-1] + 1 if dropped else first
    begin = min(max(start, first * size), stop)
    chosen = _blocks(spec, ids, first, stop)
    if not chosen:
        none = partial(torch.empty, dtype=spec.dtype, device=layer.tensor.device)
        return none(spec.heads, 0, spec.key_dim), none(spec.heads, 0, spec.value_dim)
    keys, values = layer.read(chosen)
    rows = slice(begin - first * size, max(stop - first * size, 0))
    return keys[:, rows], values[:, rows]


def _first_block(spec: LayerSpec, ids: Sequence[int], kv: KVCache, *, held_from: int) -> int:
    """The first block of the request that tokens are written to.

    A window's first block may begin with tokens that nobody sees any more. Blocks before it are
    written as well where there are any, since the engine counts them as filled.
    """
    size = spec.block_tokens
    if kv.start % size:
        raise ValueError(
            f"layer {spec.name}: expected a start at the first token of a block of {size}, got "
            f"{kv.start}"
        )
    needed = max(kv.start, first_needed(spec.window, kv.stop))
    first = needed // size
    while kv.start < first * size and first <= len(ids) and ids[first - 1] != NULL_BLOCK:
        first -= 1
        needed = first * size
    if held_from > needed:
        raise ValueError(
            f"layer {spec.name}: expected tokens from {needed} on, got those from {held_from} on"
        )
    return first


def _from(rows: torch.Tensor, stop: int, begin: int) -> torch.Tensor:
    """The last of rows (heads, tokens, dim), which end at ``stop``, from ``begin`` on; zeros for
    those before the first of them."""
    missing = stop - begin - rows.shape[1]
    if missing <= 0:
        return rows[:, -missing:]
    return torch.cat((rows.new_zeros((rows.shape[0], missing, rows.shape[2])), rows), dim=1)


def _blocks(spec: LayerSpec, ids: Sequence[int], first: int, stop: int) -> list[int]:
    """The ids of the blocks from the request's ``first`` one to that of the token before ``stop``.

    Raises:
        ValueError: some are missing.
    """
    last = max(-(-stop // spec.block_tokens), first)
    chosen = list(ids[first:last])
    if len(chosen) != last - first or NULL_BLOCK in chosen:
        raise ValueError(
            f"layer {spec.name}: expected blocks {first} to {last - 1} of the request, got "
            f"{len(ids)} blocks, of these {chosen}"
        )
    return chosen
