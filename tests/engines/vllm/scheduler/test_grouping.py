from __future__ import annotations

import pytest
import torch

from cachegen.engines.vllm.layout.shapes import LayerSpec
from cachegen.engines.vllm.scheduler.grouping import Grouping, grouping_of


def spec(group: int, block: int, window: int = 0) -> LayerSpec:
    return LayerSpec(f"layers.{group}", group, block, 2, 8, 8, torch.bfloat16, window)


def test_a_group_that_keeps_everything_stands_for_all() -> None:
    found = grouping_of([spec(0, 16, 512), spec(1, 32)], chunk_tokens=256)
    assert found == Grouping(32, 1, 32)
    assert (found.ends_at(32), found.ends_at(33)) == (1, 2)
    assert grouping_of([spec(0, 16, 512)], chunk_tokens=256) == Grouping(16, 0, 16)


@pytest.mark.parametrize(
    ("specs", "chunk_tokens", "message"),
    [
        ([spec(0, 48)], 256, "block size 48, got 256"),
        ([spec(0, 512)], 256, "block size 512, got 256"),
        ([spec(0, 16, 256), spec(1, 16)], 256, "window of 256 tokens, got 256"),
    ],
)
def test_chunks_that_do_not_fit_are_refused(specs, chunk_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouping_of(specs, chunk_tokens=chunk_tokens)
