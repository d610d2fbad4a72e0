"""What decoding takes is told beforehand; what is made of a profile is kept, and little of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachegen.bitstream.chunk import decode, encode
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.memory import (
    MAX_DECODING_BYTES,
    MAX_PLANES_BYTES,
    MOST_KEPT,
    check_memory,
    kept,
    of_adaptive,
    of_lossless,
    of_plain,
    planes_bytes,
)
from cachegen.codec.transform.layers import rung_of_layers
from cachegen.errors import BitstreamError
from cachegen.kvcache import Geometry, PlaneShape
from tests.codec.peaks import chunk_of, constant, own_model

# Layers, heads and dimensions of models as they are; tokens of a chunk that fill the limit.
MODELS = {
    "8B": (32, 8, 128),
    "70B": (80, 8, 128),
    "7B, every head": (32, 32, 128),
    "1B": (16, 8, 64),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("group", (0, 1024))
def test_chunks_of_real_models_that_are_within_the_limit_of_planes_decode(model, dtype, group):
    layers, heads, dim = MODELS[model]
    geometry = Geometry((PlaneShape(heads, dim),) * (2 * layers), dtype)
    count = geometry.values_per_token
    tokens = MAX_PLANES_BYTES // (count * dtype.itemsize)
    active = replace(constant(tokens, count), active=np.ones(count, dtype=np.bool_))
    weights = replace(constant(min(tokens, group // 2), count), active=active.active)
    arrays = own_model(geometry, ropes=True, tables=64)
    arrays |= {"group": np.array([group], dtype=np.uint32)} if group else {}
    chunk = replace(chunk_of("adaptive", geometry, tokens), blocks=(active, weights), arrays=arrays)
    assert planes_bytes(chunk) <= MAX_PLANES_BYTES
    for working in (of_adaptive(chunk), of_plain(chunk), of_lossless(chunk)):
        check_memory(chunk, working, MAX_DECODING_BYTES)


@pytest.mark.parametrize("level", ("high", "packed", "lossless", "raw"))
def test_a_limit_is_kept_where_it_is_and_not_beyond(make_cache, level):
    kv = make_cache("mixed", 40, torch.bfloat16)
    data = encode(kv, level=level)
    assert decode(data, max_bytes=1 << 20).num_tokens == 40
    for limit in (0, kv.size_bytes - 1):
        with pytest.raises(BitstreamError, match="exceed the limit") as caught:
            decode(data, max_bytes=limit)
        assert caught.value.field == "geometry"
    with pytest.raises(BitstreamError, match="exceed the limit"):
        decode_chunk(encode_chunk(kv, level=level), max_bytes=kv.size_bytes - 1)


def test_the_last_few_are_kept():
    made: dict[int, list[int]] = {}
    calls: list[int] = []

    def make(key: int) -> list[int]:
        calls.append(key)
        return [key]

    for key in range(3 * MOST_KEPT):
        assert kept(made, key, lambda key=key: make(key)) == [key]
        assert len(made) <= MOST_KEPT
    assert kept(made, 3 * MOST_KEPT - 1, lambda: make(-1)) == [3 * MOST_KEPT - 1]
    assert kept(made, 0, lambda: make(0)) == [0]
    assert calls == [*range(3 * MOST_KEPT), 0]


def test_few_rungs_of_a_profile_of_many_levels_are_kept(make_cache, make_transform_profile):
    steps = {f"level-{index}": 0.1 + index / 10 for index in range(2 * MOST_KEPT)}
    profile = make_transform_profile(make_cache("mqa", 8), steps=steps, bound=1.0)
    found = [profile.rung(index) for index in range(len(steps))]
    assert len(profile._rungs) == MOST_KEPT
    assert profile.rung(len(steps) - 1) is found[-1]
    assert profile.rung(0) is not found[0] and profile.rung(0).step == found[0].step
    for index in range(len(steps)):
        assert rung_of_layers(profile, index, (0, 1)).step == found[index].step
