"""A coded chunk to bytes and back: header, array table, arrays (FORMAT.md, sections 1 and 2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cachegen.bitstream.arrays import (
    Array,
    PlacedArray,
    make_entry,
    pieces_of,
    read_arrays,
    sort_key,
)
from cachegen.bitstream.header import (
    GEOMETRY_OFFSET,
    MAX_LAYERS,
    Header,
    geometry_of,
    header_to_bytes,
    layers_of,
    read_header,
)
from cachegen.codec.encoded import Block, EncodedChunk
from cachegen.codec.memory import MAX_PLANES_BYTES
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


Buffer = bytes | bytearray | memoryview

MAX_BYTES = MAX_PLANES_BYTES
# More than any header can claim.
UNLIMITED = 1 << 62


def pack(chunk: EncodedChunk) -> bytes:
    """The bytes of a chunk.

    Raises:
        ValueError: a chunk the format cannot hold; the message names the field.
    """
    found = sorted(
        ((make_entry(name, block, array), array) for block, name, array in _named(chunk)),
        key=lambda pair: sort_key(pair[0]),
    )
    header = Header(
        codec=chunk.codec,
        level=chunk.level,
        dtype=chunk.geometry.dtype,
        start=chunk.start,
        num_tokens=chunk.num_tokens,
        layers=layers_of(chunk),
        profile_hash=chunk.profile_hash,
        fingerprint=chunk.fingerprint,
        chunk_id=chunk.chunk_id,
        arrays=tuple(entry for entry, _ in found),
    )
    try:
        bodies = (piece for _, array in found for piece in pieces_of(array))
        data = b"".join([header_to_bytes(header), *bodies])
        unpack(data, max_bytes=UNLIMITED)
    except (BitstreamError, struct.error) as error:
        raise ValueError(f"this chunk cannot be written: {error}") from error
    return data


def unpack(data: Buffer, *, max_bytes: int = MAX_BYTES) -> EncodedChunk:
    """The chunk in these bytes; its arrays are read-only views of them where that is possible.

    Args:
        data: one whole chunk.
        max_bytes: refuse chunks whose planes would take more than this.

    Raises:
        BitstreamError: anything but an undamaged chunk of this version.
    """
    view = _aligned(memoryview(data).cast("B"))
    header, size = read_header(view)
    if header.planes_bytes > max_bytes:
        raise BitstreamError(
            f"planes of {header.planes_bytes} bytes exceed the limit of {max_bytes}; "
            "raise `max_bytes` if you trust the source",
            field="geometry",
            offset=GEOMETRY_OFFSET,
        )
    placed = read_arrays(view, header.arrays, size)
    _check_layers(placed, header)
    return EncodedChunk(
        level=header.level,
        codec=header.codec,
        geometry=geometry_of(header.layers, header.dtype),
        start=header.start,
        num_tokens=header.num_tokens,
        tokens_held=tuple(layer.tokens_held for layer in header.layers),
        profile_hash=header.profile_hash,
        fingerprint=header.fingerprint,
        chunk_id=header.chunk_id,
        blocks=_read_blocks(placed, header),
        arrays={array.entry.name: array.values for array in placed if array.entry.block is None},
    )


def _named(chunk: EncodedChunk) -> Iterator[tuple[int | None, str, Array]]:
    for name, array in chunk.arrays.items():
        yield None, name, array
    for index, block in enumerate(chunk.blocks):
        for name, array in block_to_arrays(block).items():
            yield index, name, array


def _aligned(view: memoryview) -> memoryview:
    """The same bytes at an address where arrays of any type may begin."""
    address, _ = np.frombuffer(view, dtype=np.uint8).__array_interface__["data"]
    if address % 8:
        return memoryview(bytes(view))
    return view


def _check_layers(placed: list[PlacedArray], header: Header) -> None:
    """Refuse layers that are not as many as the geometry has, or not in order."""
    for array in placed:
        if array.entry.name != "layers":
            continue
        _expect_length(array, len(header.layers))
        layers = array.values.tolist()
        if any(a >= b for a, b in pairwise(layers)):
            array.fail(f"expected {len(header.layers)} layers, ascending; got {layers[:20]}")
        if layers[-1] >= MAX_LAYERS:
            array.fail(f"expected layers below {MAX_LAYERS}, got {layers[-1]}")


def _read_blocks(placed: list[PlacedArray], header: Header) -> tuple[Block, ...]:
    of_block: dict[int, dict[str, PlacedArray]] = {}
    for array in placed:
        if array.entry.block is not None:
            of_block.setdefault(array.entry.block, {})[array.entry.name] = array
    return tuple(
        read_block(
            of_block.get(index, {}),
            index,
            max_rows=header.num_tokens,
            max_coefficients=header.values_per_token,
        )
        for index in range(1 + max(of_block, default=-1))
    )
