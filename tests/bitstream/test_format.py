"""What is packed comes out again, for every array type and every geometry."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.bitstream.format import pack, unpack
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.errors import BitstreamError
from cachegen.kvcache import DTYPES, Geometry, PlaneShape

ARRAY_TYPES = {
    "rows": ("uint8",),
    "scales": ("uint16",),
    "codes": ("int8",),
    "low_bytes": ("uint8",),
    "supports": ("uint8",),
    "frequencies": ("uint16",),
    "table_ids": ("uint8", "uint16", "uint32"),
    "means": ("float32",),
    "steps": ("float32",),
    "rope_frequencies": ("float32",),
    "rope_shapes": ("uint32",),
    "rope_of_plane": ("uint8",),
}
FIXED_ARRAYS = {
    "tokens_digest": np.arange(32, dtype=np.uint8),
    "rung": np.array([3], dtype=np.uint8),
    "distortion": np.array([0.001, 0.003], dtype=np.float32),
}
TWO_DIMENSIONAL = ("supports", "rope_shapes")


def make_chunk(layers=((1, 4, 1, 4, 10),), **changes) -> EncodedChunk:
    """A chunk of layers (key heads, key dim, value heads, value dim, tokens held)."""
    planes = []
    for key_heads, key_dim, value_heads, value_dim, _ in layers:
        planes += [PlaneShape(key_heads, key_dim), PlaneShape(value_heads, value_dim)]
    chunk = EncodedChunk(
        level="high",
        codec="plain",
        geometry=Geometry(tuple(planes), torch.bfloat16),
        start=0,
        num_tokens=10,
        tokens_held=tuple(layer[-1] for layer in layers),
    )
    return replace(chunk, **changes)


def make_block(*, rows=4, active=(True, False, True), lanes=8, grid=(4, 1), escapes=()) -> Block:
    active = np.array(active, dtype=bool)
    groups = -(-int(active.sum()) // lanes)
    sizes = np.full(-(-rows // grid[0]) * -(-groups // grid[1]), 3, dtype=np.uint32)
    words = np.zeros(int(sizes.sum()) + 32, dtype=np.uint16)
    words[: sizes.sum()] = np.arange(sizes.sum())
    return Block(
        num_rows=rows,
        active=active,
        constants=np.arange((~active).sum(), dtype=np.uint8),
        escapes=np.array(escapes, dtype=np.int8) if len(escapes) == 0 else np.array(escapes),
        lanes=lanes,
        rows_per_substream=grid[0],
        groups_per_substream=grid[1],
        sizes=sizes,
        words=words,
    )


def assert_equal(one, other) -> None:
    """Dataclasses of arrays, tuples and dicts, compared whole, types of arrays included."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, Block | EncodedChunk):
        for field in fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, dict):
        assert_equal(tuple(sorted(one)), tuple(sorted(other)))
        for name in one:
            assert_equal(one[name], other[name])
    else:
        assert one == other


def assert_round_trip(chunk: EncodedChunk) -> bytes:
    data = pack(chunk)
    assert_equal(unpack(data), chunk)
    return data


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, all_ in ARRAY_TYPES.items() for dtype in all_]
)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 300])
def test_every_array_type(name, dtype, length):
    shape = (length, 2) if name in TWO_DIMENSIONAL else (length,)
    array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(dtype)
    data = assert_round_trip(make_chunk(arrays={name: array}))
    assert len(data) % 8 == 0


@pytest.mark.parametrize("name", FIXED_ARRAYS)
def test_arrays_of_one_length(name):
    array = FIXED_ARRAYS[name]
    assert_round_trip(make_chunk(arrays={name: array}))
    for wrong in (array[:0], array[:-1], np.repeat(array, 2)):
        with pytest.raises(ValueError, match=f"expected {len(array)} entries of {name}"):
            pack(make_chunk(arrays={name: wrong}))
    with pytest.raises(ValueError, match=f"{name} must be"):
        pack(make_chunk(arrays={name: array.astype(np.int16)}))


@pytest.mark.parametrize(
    "layers",
    [
        ((1, 1, 1, 1, 10),),
        ((8, 128, 8, 128, 10),) * 80,
        ((1, 512, 1, 64, 10),) * 3,
        ((1, 576, 0, 0, 10),) * 2,
        ((4, 32, 2, 16, 10), (2, 32, 2, 16, 10), (4, 32, 2, 16, 10)),
        ((4, 8, 4, 8, 4), (4, 8, 4, 8, 10), (4, 8, 4, 8, 0)),
        ((65535, 1, 1, 65537, 10),),
        ((1, 1, 1, 1, 10), (1, 2, 1, 1, 10)) * 2048,
    ],
)
def test_every_geometry(layers):
    assert_round_trip(make_chunk(layers))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    geometry = replace(make_chunk().geometry, dtype=dtype)
    assert_round_trip(make_chunk(geometry=geometry))


@pytest.mark.parametrize(
    "codec", ["raw", "packed", "lossless", "plain", "paper", "transform", "adaptive"]
)
def test_every_codec_and_identity(codec):
    digests = [hashlib.sha256(name).digest() for name in (b"a", b"b", b"c")]
    names = ("profile_hash", "fingerprint", "chunk_id")
    chunk = make_chunk(codec=codec, start=2**48, **dict(zip(names, digests, strict=True)))
    assert_round_trip(chunk)


def test_equal_neighbours_share_a_run():
    one = pack(make_chunk(((4, 8, 4, 8, 10),)))
    assert len(pack(make_chunk(((4, 8, 4, 8, 10),) * 50))) == len(one)


@pytest.mark.parametrize(
    "block",
    [
        make_block(),
        make_block(active=(False,) * 9),
        make_block(active=(True,) * 4),
        make_block(rows=0),
        make_block(rows=10, grid=(3, 1), lanes=16),
        make_block(escapes=np.array([1, -2], dtype=np.int8)),
        make_block(escapes=np.array([300], dtype=np.int16)),
        make_block(escapes=np.array([-70_000], dtype=np.int32)),
    ],
)
def test_blocks(block):
    geometry = ((1, 6, 1, 6, 10),)
    assert_round_trip(make_chunk(geometry, blocks=(block,)))
    assert_round_trip(make_chunk(geometry, blocks=(block, make_block(), block)))


def test_most_blocks():
    block = make_block()
    assert_round_trip(make_chunk(blocks=(block,) * 256))
    with pytest.raises(ValueError, match="cannot be written"):
        pack(make_chunk(blocks=(block,) * 257))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chunk(data):
    draw = data.draw
    small = st.integers(1, 5)
    num_tokens = draw(st.integers(0, 12))
    layer = st.tuples(small, small, small, small, st.integers(0, num_tokens))
    chunk = make_chunk(
        tuple(draw(st.lists(layer, min_size=1, max_size=6))),
        num_tokens=num_tokens,
        start=draw(st.integers(0, 2**48)),
        level=draw(st.from_regex(r"[a-z0-9_-]{1,64}", fullmatch=True)),
        arrays={
            name: np.frombuffer(draw(st.binary(max_size=20)), dtype=np.uint8)
            for name in draw(st.sets(st.sampled_from(["rows", "low_bytes", "rope_of_plane"])))
        },
    )
    width = chunk.geometry.values_per_token
    lanes = st.sampled_from([8, 16, 32])
    blocks = st.builds(
        make_block,
        rows=st.integers(0, num_tokens),
        active=st.lists(st.booleans(), max_size=width),
        lanes=lanes,
        grid=st.tuples(small, small),
    )
    assert_round_trip(replace(chunk, blocks=tuple(draw(st.lists(blocks, max_size=3)))))


def test_arrays_are_read_only_views():
    data = pack(make_chunk(arrays={"rows": np.arange(64, dtype=np.uint8)}, blocks=(make_block(),)))
    source = np.frombuffer(data, dtype=np.uint8)
    chunk = unpack(data)
    for array in (chunk.arrays["rows"], chunk.blocks[0].words, chunk.blocks[0].sizes):
        assert np.shares_memory(array, source)
        assert not array.flags.writeable


@pytest.mark.parametrize("shift", range(8))
def test_input_may_begin_anywhere(shift):
    chunk = make_chunk(arrays={"steps": np.arange(3, dtype=np.float32)}, blocks=(make_block(),))
    shifted = memoryview(bytearray(bytes(shift) + pack(chunk)))[shift:]
    found = unpack(shifted)
    assert_equal(found, chunk)
    assert found.blocks[0].words.flags.aligned


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrays": {"secret": np.zeros(1, np.uint8)}}, "secret"),
        ({"arrays": {"rows": np.zeros(1, np.float64)}}, "float64"),
        ({"arrays": {"rows": np.zeros(1, np.int8)}}, "must be uint8"),
        ({"arrays": {"rows": np.zeros((1, 2), np.uint8)}}, "ndim"),
        ({"level": "High"}, "level"),
        ({"level": ""}, "level"),
        ({"level": "x" * 65}, "level"),
        ({"codec": "zip"}, "zip"),
        ({"start": -1}, "cannot be written"),
        ({"start": 2**48 + 1}, "start"),
        ({"num_tokens": 2**24 + 1}, "num_tokens"),
        ({"tokens_held": (11,)}, "tokens_held"),
        ({"profile_hash": b"short"}, "32 bytes"),
        ({"geometry": Geometry((PlaneShape(1, 0),) * 2, torch.float16)}, "values per token"),
        ({"geometry": Geometry((PlaneShape(2**16, 1),) * 2, torch.float16)}, "be written"),
        ({"geometry": Geometry((PlaneShape(1, 2**23 + 1),) * 2, torch.float16)}, "values per"),
        ({"blocks": (make_block(rows=11),)}, "at most 10 rows"),
        ({"blocks": (make_block(lanes=12),)}, "lanes"),
        ({"blocks": (replace(make_block(), constants=np.zeros(2, np.uint8)),)}, "constants"),
        ({"blocks": (replace(make_block(), sizes=np.zeros(2, np.uint32)),)}, "sizes"),
        ({"blocks": (replace(make_block(), words=np.zeros(9, np.uint16)),)}, "words"),
        ({"blocks": (replace(make_block(), words=np.ones(35, np.uint16)),)}, "not zero"),
        ({"blocks": (replace(make_block(), rows_per_substream=0),)}, "grid"),
    ],
)
def test_what_no_reader_would_take_is_not_written(changes, words):
    with pytest.raises(ValueError, match=words):
        pack(make_chunk(**changes))


def test_too_many_layers():
    with pytest.raises(ValueError, match="4096 layers"):
        pack(make_chunk(((1, 1, 1, 1, 10), (1, 2, 1, 1, 10)) * 2049))


def test_limit_is_held_against_what_the_layers_hold():
    chunk = make_chunk(((1, 4, 1, 4, 10), (1, 4, 1, 4, 3)))
    unpack(pack(chunk), max_bytes=8 * 13 * 2)
    with pytest.raises(BitstreamError, match="limit of 207"):
        unpack(pack(chunk), max_bytes=8 * 13 * 2 - 1)


def test_limit_counts_one_token_of_an_empty_layer():
    data = pack(make_chunk(((1, 4, 1, 4, 0),), num_tokens=0))
    unpack(data, max_bytes=16)
    with pytest.raises(BitstreamError, match="max_bytes"):
        unpack(data, max_bytes=15)
