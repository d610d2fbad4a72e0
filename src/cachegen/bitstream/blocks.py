"""Coded blocks to the arrays that store them, and back (FORMAT.md, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cachegen.bitstream.arrays import Array, PlacedArray
from cachegen.codec.encoded import Block
from cachegen.errors import BitstreamError
from cachegen.kernels.layout import LANE_COUNTS, PADDING_WORDS, Grid

_REQUIRED = ("shape", "active", "constants", "sizes", "words")
_NO_ESCAPES = np.empty(0, dtype=np.int8)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The numbers of the array `shape`."""

    rows: int
    coefficients: int
    lanes: int
    rows_per_substream: int
    groups_per_substream: int
    reserved: int


def block_to_arrays(block: Block) -> dict[str, Array]:
    """The arrays of a block, by name."""
    shape = (
        block.num_rows,
        len(block.active),
        block.lanes,
        block.rows_per_substream,
        block.groups_per_substream,
        0,
    )
    arrays: dict[str, Array] = {
        "shape": np.array(shape, dtype=np.uint32),
        "active": np.packbits(block.active, bitorder="little"),
        "constants": block.constants,
        "sizes": block.sizes,
        "words": block.words,
    }
    return arrays | ({"escapes": block.escapes} if len(block.escapes) else {})


def read_block(
    arrays: Mapping[str, PlacedArray], index: int, *, max_rows: int, max_coefficients: int
) -> Block:
    """Put a block together.

    Raises:
        BitstreamError: arrays that are missing or contradict one another.
    """
    for name in _REQUIRED:
        if name not in arrays:
            raise BitstreamError("the array is missing", field=f"blocks[{index}].{name}")
    shape = _read_shape(arrays["shape"], max_rows=max_rows, max_coefficients=max_coefficients)
    active = _read_active(arrays["active"], shape.coefficients)
    num_active = int(np.count_nonzero(active))
    _expect_length(arrays["constants"], shape.coefficients - num_active)
    grid = Grid(
        shape.rows,
        -(-num_active // shape.lanes),
        shape.rows_per_substream,
        shape.groups_per_substream,
    )
    _expect_length(arrays["sizes"], grid.num_substreams)
    _check_words(arrays["words"], arrays["sizes"])
    return Block(
        num_rows=shape.rows,
        active=active,
        constants=arrays["constants"].values,
        escapes=_read_escapes(arrays),
        lanes=shape.lanes,
        rows_per_substream=shape.rows_per_substream,
        groups_per_substream=shape.groups_per_substream,
        sizes=arrays["sizes"].values,
        words=arrays["words"].values,
    )


def _read_shape(array: PlacedArray, *, max_rows: int, max_coefficients: int) -> _Shape:
    _expect_length(array, 6)
    shape = _Shape(*array.values.tolist())
    right = (
        shape.rows <= max_rows
        and shape.coefficients <= max_coefficients
        and shape.lanes in LANE_COUNTS
        and min(shape.rows_per_substream, shape.groups_per_substream) >= 1
        and shape.reserved == 0
    )
    if not right:
        array.fail(
            f"expected at most {max_rows} rows and {max_coefficients} coefficients, lanes of "
            f"{LANE_COUNTS}, a grid of at least 1 x 1 and a final 0; got {shape}"
        )
    return shape


def _read_active(array: PlacedArray, coefficients: int) -> Array:
    _expect_length(array, -(-coefficients // 8))
    bits = np.unpackbits(array.values, bitorder="little")
    if bits[coefficients:].any():
        array.fail("the spare bits are not zero")
    return bits[:coefficients].view(np.bool_)


def _read_escapes(arrays: Mapping[str, PlacedArray]) -> Array:
    if "escapes" not in arrays:
        return _NO_ESCAPES
    if not len(arrays["escapes"].values):
        arrays["escapes"].fail("a block without escapes must not have this array")
    return arrays["escapes"].values


def _check_words(words: PlacedArray, sizes: PlacedArray) -> None:
    _expect_length(words, int(sizes.values.sum(dtype=np.uint64)) + PADDING_WORDS)
    if words.values[-PADDING_WORDS:].any():
        words.fail(f"the last {PADDING_WORDS} words are not zero")


def _expect_length(array: PlacedArray, length: int) -> None:
    if len(array.values) != length:
        array.fail(f"expected {length} entries, got {len(array.values)}")
