"""A request's blocks as a cache, and back: groups, windows, null blocks, starts and stops."""

from __future__ import annotations

import pytest
import torch

from cachegen.engines.vllm.layout.paged import PagedCache, blocks_needed
from cachegen.engines.vllm.layout.shapes import LayerSpec, layer_blocks
from cachegen.kvcache import KVCache

BLOCKS, HEADS, DIM, SIZE = 40, 2, 4, 16


def paged(*windows: int, shared: bool = False) -> PagedCache:
    """A layer for each window, each in a group of its own, in memory that they may share."""
    specs = tuple(
        LayerSpec(f"layers.{index}", index, SIZE, HEADS, DIM, DIM, torch.float32, window)
        for index, window in enumerate(windows)
    )
    one = torch.full((BLOCKS, HEADS, SIZE, 2 * DIM), 7.0)
    tensors = [one if shared else one.clone() for _ in windows]
    layers = (
        layer_blocks(tensor, spec, num_blocks=BLOCKS)
        for tensor, spec in zip(tensors, specs, strict=True)
    )
    return PagedCache(specs, tuple(layers))


def cache(layers: int, start: int, stop: int, held: tuple[int, ...] = ()) -> KVCache:
    """Random planes; of some layers only the last tokens."""
    made = torch.Generator().manual_seed(3)
    rows = torch.randn(2, layers, HEADS, stop - start, DIM, generator=made)
    first = [stop - start - tokens for tokens in held or (stop - start,) * layers]
    keys, values = (
        tuple(plane[:, skipped:] for plane, skipped in zip(half, first, strict=True))
        for half in rows
    )
    return KVCache(keys, values, stop - start, start)


def equal(left: KVCache, right: KVCache) -> bool:
    same = (left.start, left.stop) == (right.start, right.stop)
    return same and all(map(torch.equal, left.planes(), right.planes()))


def test_tokens_come_back_from_any_start_to_any_stop() -> None:
    pages, kv = paged(0, 0), cache(2, 0, 80)
    ids = ([3, 9, 1, 30, 2], [5, 6, 7, 8, 11])
    pages.write(kv, ids)
    for start, stop in ((0, 80), (0, 1), (15, 17), (16, 32), (31, 79), (79, 80)):
        assert equal(pages.read(ids, start=start, stop=stop), kv.slice(start, stop))
    assert pages.geometry == kv.geometry


def test_groups_may_share_memory() -> None:
    pages, kv = paged(0, 0, shared=True), cache(2, 0, 32)
    ids = ([3, 9], [5, 6])
    pages.write(kv, ids)
    assert equal(pages.read(ids, start=0, stop=32), kv)


def test_a_later_part_goes_behind_an_earlier_one() -> None:
    pages, kv = paged(0), cache(1, 0, 64)
    ids = [[4, 8, 12, 16]]
    pages.write(kv.slice(32, 64), ids)
    untouched = pages.read(ids, start=0, stop=32)
    assert torch.equal(untouched.keys[0], torch.full((HEADS, 32, DIM), 7.0))
    pages.write(kv.slice(0, 32), ids)
    assert equal(pages.read(ids, start=0, stop=64), kv)


def test_rest_of_the_last_block_is_blank() -> None:
    pages, kv = paged(0), cache(1, 0, 20)
    pages.write(kv, [[4, 8]])
    read = pages.read([[4, 8]], start=0, stop=32)
    assert equal(read.slice(0, 20), kv)
    assert not read.keys[0][:, 20:].any()


def test_what_a_window_has_passed_is_left_out() -> None:
    pages, kv = paged(0, 20), cache(2, 0, 64)
    pages.write(kv, ([1, 2, 3, 4], [5, 6, 7, 8]))
    read = pages.read(([1, 2, 3, 4], [0, 0, 7, 8]), start=0, stop=64)
    assert [key.shape[1] for key in read.keys] == [64, 32]
    assert torch.equal(read.keys[1], kv.keys[1][:, 32:])
    assert not read.is_complete
    assert pages.read(([1, 2, 3, 4], [0, 0, 7, 8]), start=32, stop=60).is_complete
    passed = pages.read(([1, 2, 3, 4], [0, 0, 0, 8]), start=0, stop=40)
    assert [key.shape[1] for key in passed.keys] == [40, 0]


def test_a_window_takes_what_it_needs() -> None:
    # Token 64 sees itself and 19 before it: 45 .. 63, in blocks 2 and 3.
    pages, kv = paged(0, 20), cache(2, 0, 64, held=(64, 19))
    ids = ([1, 2, 3, 4], [0, 0, 7, 8])
    pages.write(kv, ids)
    read = pages.read(ids, start=45, stop=64)
    assert torch.equal(read.keys[0], kv.keys[0][:, 45:])
    assert torch.equal(read.keys[1], kv.keys[1])
    before = pages.read(ids, start=32, stop=45)
    assert not before.keys[1].any()
    assert blocks_needed(pages.specs, stop=64) == {0: range(4), 1: range(2, 4)}


def test_blocks_that_the_engine_counts_as_filled_are_filled() -> None:
    pages, kv = paged(20), cache(1, 0, 64)
    pages.write(kv, [[0, 6, 7, 8]])
    assert equal(pages.read([[0, 6, 7, 8]], start=16, stop=64), kv.slice(16, 64))
    with pytest.raises(ValueError, match="tokens from 16 on, got those from 32 on"):
        pages.write(cache(1, 0, 64, held=(32,)), [[0, 6, 7, 8]])


@pytest.mark.parametrize(
    ("ids", "held", "reason"),
    [
        ([[1, 2, 3]], 64, "expected blocks 0 to 3"),
        ([[1, 2, 0, 4]], 64, "expected blocks 0 to 3"),
        ([[1, 2, 3, 4]], 63, "tokens from 0 on, got those from 1 on"),
    ],
)
def test_a_full_layer_needs_everything(ids: list[list[int]], held: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        paged(0).write(cache(1, 0, 64, held=(held,)) if held == 64 else _short(held), ids)


def _short(held: int) -> KVCache:
    whole = cache(1, 0, 64)
    return KVCache((whole.keys[0][:, -held:],), (whole.values[0][:, -held:],), 64)


def test_a_window_needs_its_tokens_and_blocks() -> None:
    with pytest.raises(ValueError, match="tokens from 45 on, got those from 46 on"):
        paged(20).write(cache(1, 0, 64, held=(18,)), [[0, 0, 7, 8]])
    with pytest.raises(ValueError, match="expected blocks 2 to 3"):
        paged(20).write(cache(1, 0, 64), [[0, 0, 0, 8]])


def test_other_caches_are_refused() -> None:
    with pytest.raises(ValueError, match="first token of a block of 16"):
        paged(0).write(cache(1, 8, 64), [[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="expected Geometry"):
        paged(0, 0).write(cache(1, 0, 16), ([1], [2]))
    with pytest.raises(ValueError, match="0 <= start < stop"):
        paged(0).read([[1]], start=4, stop=4)
    with pytest.raises(ValueError, match="expected blocks 0 to 1"):
        paged(0).read([[1]], start=0, stop=17)
