"""Arrays that a chunk brings along: every one may be hostile."""

from dataclasses import replace

import numpy as np
import pytest

from cachegen.codec.codec import decode_chunk
from cachegen.codec.codecs import EncodeRequest, codec_of
from cachegen.codec.levels import EncodingLevel
from cachegen.codec.model import model_from_arrays, model_to_arrays
from cachegen.codec.tables import narrow_ids
from cachegen.errors import BitstreamError


@pytest.fixture
def chunk(make_cache, rope_of):
    kv = make_cache("gqa", 40, start=2)
    return codec_of("plain").encode(
        kv, EncodeRequest(EncodingLevel("high", "plain", 0.2), None, rope_of(kv), threads=1)
    )


def changed(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


def test_a_model_comes_back(chunk):
    model = model_from_arrays(chunk.arrays, chunk.geometry, codec="plain")
    arrays = model_to_arrays(model)
    assert set(arrays) | {"scales", "codes"} == set(chunk.arrays)
    for name, array in arrays.items():
        assert array.dtype == chunk.arrays[name].dtype
        assert np.array_equal(array, chunk.arrays[name])


@pytest.mark.parametrize("name", ("scales", "codes", "supports", "frequencies", "table_ids",
    "steps", "means", "rope_frequencies", "rope_shapes", "rope_of_plane"))  # fmt: skip
def test_missing_short_and_mistyped_arrays_are_refused(chunk, name):
    array = chunk.arrays[name]
    missing = {key: other for key, other in chunk.arrays.items() if key != name}
    wrong = [
        missing,
        missing | {name: array[:-1]},
        missing | {name: np.concatenate([array, array[:1]])},
        missing | {name: array.reshape(-1, 1) if array.ndim == 1 else array.ravel()},
        missing | {name: array.astype(np.float64)},
    ]
    for arrays in wrong:
        with pytest.raises(BitstreamError):
            decode_chunk(replace(chunk, arrays=arrays))


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    (
        ("means", 7, np.nan, "means: expected finite"),
        ("means", 0, np.inf, "means: expected finite"),
        ("steps", 1, 0, "steps: expected positive"),
        ("steps", 1, -1, "steps: expected positive"),
        ("steps", 1, np.nan, "steps: expected positive"),
        ("steps", 1, np.inf, "steps: expected positive"),
        ("table_ids", 3, 255, "table_ids: table 255"),
        ("rope_frequencies", 1, np.nan, "rope_frequencies: expected at most"),
        ("rope_shapes", (0, 1), 2, "rope_shapes: unknown pairing"),
        ("rope_shapes", (0, 0), 2**32 - 1, "rope_frequencies: expected"),
        ("rope_of_plane", 0, 2, "rope_shapes"),
        ("rope_of_plane", 0, 255, "rope_shapes"),
    ),
)
def test_values_out_of_range_are_refused(chunk, name, index, value, message):
    arrays = chunk.arrays | {name: changed(chunk.arrays[name], index, value)}
    with pytest.raises(BitstreamError, match=message):
        decode_chunk(replace(chunk, arrays=arrays))


def test_rotations_wider_than_a_head_are_refused(chunk):
    arrays = chunk.arrays | {
        "rope_shapes": np.array([[9, 0]], dtype=np.uint32),
        "rope_frequencies": np.ones(9, dtype=np.float32),
    }
    with pytest.raises(BitstreamError, match="18 dimensions turn, a head has 16"):
        decode_chunk(replace(chunk, arrays=arrays))


def test_too_many_tables_and_rotations_are_refused(chunk):
    many = {
        "supports": np.tile(np.array([[128, 128]], dtype=np.uint8), (257, 1)),
        "frequencies": np.tile(np.array([1, 4095], dtype=np.uint16), 257),
    }
    with pytest.raises(BitstreamError, match="at most 256 tables"):
        decode_chunk(replace(chunk, arrays=chunk.arrays | many))
    ropes = {"rope_shapes": np.zeros((256, 2), dtype=np.uint32)}
    with pytest.raises(BitstreamError, match="at most 255 rotations"):
        decode_chunk(replace(chunk, arrays=chunk.arrays | ropes))


def test_tables_without_an_escape_are_refused(chunk):
    count = chunk.geometry.values_per_token
    arrays = chunk.arrays | {
        "supports": np.array([[128, 129]], dtype=np.uint8),
        "frequencies": np.array([0, 96, 4000], dtype=np.uint16),
        "table_ids": np.zeros(count, dtype=np.uint8),
    }
    with pytest.raises(BitstreamError, match="escape"):
        decode_chunk(replace(chunk, arrays=arrays))


@pytest.mark.parametrize(
    ("largest", "dtype"), ((255, np.uint8), (256, np.uint16), (65536, np.uint32))
)
def test_ids_are_kept_as_narrow_as_they_go(largest, dtype):
    narrowed = narrow_ids(np.array([0, largest]))
    assert narrowed.dtype == dtype and narrowed.tolist() == [0, largest]
    assert narrow_ids(np.empty(0, dtype=np.int64)).dtype == np.uint8
