"""Kinds of layers apart: the same cache as together, each layer in one chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cachegen.bitstream.format import pack, unpack
from cachegen.codec.codec import decode_chunk, encode_chunk
from cachegen.codec.kinds import can_split, encode_kinds
from cachegen.codec.rope import Rope, RopeMap
from cachegen.codec.transform.layers import rung_of_layers
from cachegen.errors import BitstreamError, ProfileMismatch
from cachegen.kvcache import KVCache

KINDS = ((1, 3), (0, 2))
TOKENS = tuple(range(40))
ROPE = RopeMap((Rope((1.0, 0.1)), Rope((0.5,))), (0, None, 1, None, 0, None, 1, None))


@pytest.fixture(scope="module")
def kv() -> KVCache:
    generator = torch.Generator().manual_seed(3)
    planes = [torch.randn(2, 40, 4, generator=generator).bfloat16() for _ in range(8)]
    return KVCache(tuple(planes[::2]), tuple(planes[1::2]), 40)


@pytest.fixture(scope="module")
def profile(kv, make_transform_profile):
    """Every layer is a group."""
    groups = tuple((plane, plane + 1) for plane in range(0, 8, 2))
    steps = {"low": 0.5, "high": 0.05}
    return make_transform_profile(kv, rope=ROPE, steps=steps, bound=0.5, groups=groups)


def together(kinds, parts) -> KVCache:
    """Layers in the model's order again."""
    layers = {}
    for kind, part in zip(kinds, parts, strict=True):
        layers |= dict(zip(kind, zip(part.keys, part.values, strict=True), strict=True))
    return replace(KVCache.from_layers([layers[i] for i in sorted(layers)]), start=parts[0].start)


def check_same(found: KVCache, expected: KVCache) -> None:
    assert (found.start, found.num_tokens) == (expected.start, expected.num_tokens)
    assert all(map(torch.equal, found.planes(), expected.planes()))


@pytest.mark.parametrize("level", ["raw", "packed", "lossless", "medium"])
@pytest.mark.parametrize("start", [0, 40])
def test_kinds_decode_to_what_the_whole_decodes_to(kv, level, start):
    kv = replace(kv, start=start)
    chunks = encode_kinds(kv, KINDS, level=level, rope=ROPE)
    assert [chunk.arrays["layers"].tolist() for chunk in chunks] == [list(kind) for kind in KINDS]
    found = [decode_chunk(unpack(pack(chunk))) for chunk in chunks]
    check_same(together(KINDS, found), decode_chunk(encode_chunk(kv, level=level, rope=ROPE)))


@pytest.mark.parametrize("level", ["low", "high", "lossless"])
@pytest.mark.parametrize("start", [0, 40])
def test_kinds_of_a_transform_are_coded_as_one(kv, profile, level, start):
    kv, options = replace(kv, start=start), {"tokens": TOKENS, "profile": profile}
    whole = encode_chunk(kv, level=level, **options)
    chunks = encode_kinds(kv, KINDS, level=level, **options)
    assert {chunk.codec for chunk in chunks} == {whole.codec}
    if level != "lossless":
        assert {chunk.arrays["rung"].tobytes() for chunk in chunks} == {
            whole.arrays["rung"].tobytes()
        }
        assert sum(len(chunk.blocks) for chunk in chunks) == len(whole.blocks) == 4
    found = [decode_chunk(unpack(pack(chunk)), **options) for chunk in chunks]
    check_same(together(KINDS, found), decode_chunk(whole, **options))


@pytest.mark.parametrize("codec", ["lossless", "adaptive"])
def test_what_gives_way_gives_way_in_all_kinds(kv, profile, codec):
    """NaN in one layer, or a cache that is strange as a whole."""
    keys = tuple(key / 2 for key in kv.keys)
    kv = replace(kv, keys=keys, values=tuple(value / 2 for value in kv.values))
    if codec == "lossless":
        keys[2][:, 10:30:2] = float("nan")
    else:
        profile = replace(profile, transform=replace(profile.transform, ood_score=1e-9))
    whole = encode_chunk(kv, tokens=TOKENS, profile=profile, level="low")
    chunks = encode_kinds(kv, KINDS, tokens=TOKENS, profile=profile, level="low")
    assert whole.codec == codec == chunks[0].codec == chunks[1].codec
    assert {chunk.level for chunk in chunks} == {"low"}
    for kind, chunk in zip(KINDS, chunks, strict=True):
        found = decode_chunk(unpack(pack(chunk))).planes()
        expected = decode_chunk(whole).of_layers(kind).planes()
        assert all(
            torch.equal(a.view(torch.int16), b.view(torch.int16))
            for a, b in zip(found, expected, strict=True)
        )


def test_groups_that_mix_kinds_are_not_split(kv, profile, make_transform_profile):
    assert can_split(profile, "high", KINDS) and can_split(None, "medium", KINDS)
    mixed = make_transform_profile(
        kv, steps={"high": 0.05}, bound=0.5, groups=((0, 1, 2, 3), (4, 5, 6, 7))
    )
    assert not can_split(mixed, "high", KINDS)
    assert can_split(mixed, "high", ((0, 1), (2, 3))) and can_split(mixed, "lossless", KINDS)
    with pytest.raises(BitstreamError, match="layers"):
        rung_of_layers(mixed, 0, (0, 2))


def test_layers_that_a_profile_does_not_have_are_refused(kv, profile):
    chunk, _ = encode_kinds(kv, KINDS, tokens=TOKENS, profile=profile, level="high")
    other = replace(chunk, arrays=chunk.arrays | {"layers": chunk.arrays["layers"] + 1})
    with pytest.raises(BitstreamError, match="layers: there are 4 layers, got layer 4"):
        decode_chunk(other, profile=profile, tokens=TOKENS)
    narrow = replace(chunk, geometry=chunk.geometry.of_layers((0,)))
    with pytest.raises(ProfileMismatch):
        decode_chunk(narrow, profile=profile, tokens=TOKENS)


@pytest.mark.parametrize("layers", [[3, 1], [1, 1], [1], [1, 2, 3], [1, 5000]])
def test_layers_out_of_order_or_number_are_refused(kv, layers):
    chunk, _ = encode_kinds(kv, KINDS, level="raw")
    array = chunk.arrays["layers"].copy()
    array.resize(len(layers))
    array[:] = layers
    with pytest.raises(ValueError, match="layers"):
        pack(replace(chunk, arrays=chunk.arrays | {"layers": array}))
