"""Readers that have a beginning already, and that take the planes elsewhere."""

from __future__ import annotations

import pytest
import torch

from cachegen.kvcache import Geometry, KVCache
from cachegen.loading.decoding import Assembly
from cachegen.loading.load import Reader
from cachegen.store import open_store

TOKENS = list(range(300))


class Elsewhere(Assembly):
    """Keeps the parts as they come."""

    def __init__(self, capacity: int, num_layers: int | None = None) -> None:
        super().__init__(capacity, num_layers)
        self.capacity, self.parts = capacity, []

    def room(self, geometry: Geometry, *, start: int, stop: int, layers=None) -> None:
        return None

    def place(self, part: KVCache, layers=None) -> None:
        self.parts.append(part)

    def kv(self, num_tokens: int, *, last=None) -> None:
        return None


@pytest.fixture(scope="module")
def stored(toy):
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["lossless"])
    return store


@pytest.mark.parametrize(
    ("start", "ranges"),
    [
        (0, [(0, 128), (128, 256), (256, 300)]),
        (127, [(0, 128), (128, 256), (256, 300)]),
        (128, [(128, 256), (256, 300)]),
        (299, [(256, 300)]),
        (300, []),
    ],
)
def test_only_what_the_reader_lacks_is_loaded(toy, stored, start: int, ranges) -> None:
    made = []

    def assembly(capacity: int, num_layers: int | None) -> Elsewhere:
        made.append(Elsewhere(capacity, num_layers))
        return made[0]

    reader = Reader(start=start, assembly=assembly)
    result = toy.load(TOKENS, stored, level="lossless", reader=reader)
    assert (result.kv, result.num_tokens, made[0].capacity) == (None, 300, 300)
    parts = sorted(made[0].parts, key=lambda part: part.start)
    assert [(part.start, part.stop) for part in parts] == ranges
    fetched = [span.chunk for span in result.spans if span.work == "fetch"]
    assert len(fetched) == len(ranges)
    truth = toy.kv(TOKENS)
    for part in parts:
        assert torch.equal(part.keys[0], truth.slice(part.start, part.stop).keys[0])
