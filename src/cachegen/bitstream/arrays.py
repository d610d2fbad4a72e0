"""The array table and the arrays behind it (FORMAT.md, sections 1 and 2)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachegen.errors import BitstreamError

Choice = TypeVar("Choice")


class ByteReader:
    """A cursor over bytes; every failure names the field and its offset.

    Args:
        data: what may be read.
        offset: where to begin.
    """

    def __init__(self, data: memoryview | bytes, offset: int = 0) -> None:
        """Begin at `offset`."""
        self._data = data
        self._next = offset
        self._field_offset = offset

    @property
    def offset(self) -> int:
        """Where the next field begins."""
        return self._next

    def fail(self, message: str, field: str, *, skip: int = 0) -> NoReturn:
        """Raise the error of what was read last, or of what lies `skip` bytes into it."""
        raise BitstreamError(message, field=field, offset=self._field_offset + skip)

    def take(self, size: int, field: str) -> bytes:
        """The next `size` bytes."""
        self._field_offset = self._next
        left = len(self._data) - self._next
        if size > left:
            self.fail(f"expected {size} bytes, only {left} are left", field)
        self._next += size
        return bytes(self._data[self._field_offset : self._next])

    def unsigned(self, width: int, field: str, *, low: int = 0, high: int | None = None) -> int:
        """A little-endian unsigned integer of `width` bytes within its limits."""
        value = int.from_bytes(self.take(width, field), "little")
        if value < low:
            self.fail(f"expected at least {low}, got {value}", field)
        if high is not None and value > high:
            self.fail(f"expected at most {high}, got {value}", field)
        return value

    def choice(self, field: str, choices: tuple[Choice, ...]) -> Choice:
        """What a byte stands for."""
        index = self.unsigned(1, field)
        if index >= len(choices):
            self.fail(f"expected a number below {len(choices)}, got {index}", field)
        return choices[index]

    def zeros(self, size: int, field: str) -> None:
        """Pass over bytes that must be zero."""
        if any(self.take(size, field)):
            self.fail("expected zero bytes", field)


Array = NDArray[Any]

# FORMAT.md, section 1.
ALIGNMENT = 8

_ENTRY = struct.Struct("<BBBBII4sQ")
_TYPES = tuple(np.dtype(code) for code in ("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<u8"))
_TYPE_NAMES = tuple(dtype.name for dtype in _TYPES)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Number, types and shape that the format gives to arrays of one name."""

    number: int
    types: tuple[str, ...]
    ndim: int = 1
    in_block: bool = False
    length: int | None = None


# FORMAT.md, section 2.
_KINDS = {
    "shape": _Kind(1, ("uint32",), in_block=True),
    "active": _Kind(2, ("uint8",), in_block=True),
    "constants": _Kind(3, ("uint8",), in_block=True),
    "escapes": _Kind(4, ("int8", "int16", "int32"), in_block=True),
    "sizes": _Kind(5, ("uint32",), in_block=True),
    "words": _Kind(6, ("uint16",), in_block=True),
    "rows": _Kind(16, ("uint8",)),
    "scales": _Kind(17, ("uint16",)),
    "codes": _Kind(18, ("int8",)),
    "low_bytes": _Kind(19, ("uint8",)),
    "supports": _Kind(20, ("uint8",), ndim=2),
    "frequencies": _Kind(21, ("uint16",)),
    "table_ids": _Kind(22, ("uint8", "uint16", "uint32")),
    "means": _Kind(23, ("float32",)),
    "steps": _Kind(24, ("float32",)),
    "rope_frequencies": _Kind(25, ("float32",)),
    "rope_shapes": _Kind(26, ("uint32",), ndim=2),
    "rope_of_plane": _Kind(27, ("uint8",)),
    "tokens_digest": _Kind(28, ("uint8",), length=32),
    "rung": _Kind(29, ("uint8",), length=1),
    "distortion": _Kind(30, ("float32",), length=2),
    "layers": _Kind(31, ("uint16",)),
    "fineness": _Kind(32, ("uint8",)),
    "group": _Kind(33, ("uint32",), length=1),
    "weight_step": _Kind(34, ("float32",), length=1),
    "spreads": _Kind(35, ("uint8",)),
    "multipliers": _Kind(36, ("uint8",)),
}
_NAMES = {kind.number: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """One line of the array table.

    Attributes:
        name: what the array is.
        block: the block it belongs to; None where it belongs to none.
        dtype: type of its elements.
        shape: one or two dimensions.
        xxh3: checksum of its bytes and padding.
    """

    name: str
    block: int | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    xxh3: int

    @property
    def label(self) -> str:
        """The array as errors name it."""
        return self.name if self.block is None else f"blocks[{self.block}].{self.name}"

    @property
    def size_bytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def padded_bytes(self) -> int:
        """Bytes of the elements and their padding."""
        return self.size_bytes + -self.size_bytes % ALIGNMENT


@dataclass(frozen=True, slots=True, eq=False)
class PlacedArray:
    """An array, read-only, and where it was found."""

    entry: ArrayEntry
    offset: int
    values: Array

    def fail(self, message: str) -> NoReturn:
        """Raise the error that names this array."""
        raise BitstreamError(message, field=self.entry.label, offset=self.offset)


def make_entry(name: str, block: int | None, array: Array) -> ArrayEntry:
    """The entry of an array that is about to be written.

    Raises:
        ValueError: an array the format has no name for.
    """
    if name not in _KINDS:
        raise ValueError(f"expected one of the arrays {', '.join(_KINDS)}; got {name!r}")
    xxh3 = xxhash.xxh3_64()
    for piece in pieces_of(array):
        xxh3.update(piece)
    return ArrayEntry(name, block, array.dtype, array.shape, xxh3.intdigest())


def pieces_of(array: Array) -> tuple[memoryview, bytes]:
    """An array as it is stored: its bytes and the padding."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.data, bytes(-flat.nbytes % ALIGNMENT)


def sort_key(entry: ArrayEntry) -> tuple[int, int]:
    """Where an entry stands in the table."""
    return entry.block or 0, _KINDS[entry.name].number


def entry_to_bytes(entry: ArrayEntry) -> bytes:
    """One line of the table.

    Raises:
        ValueError: a type or a number of dimensions the format does not have.
    """
    if entry.dtype not in _TYPES or len(entry.shape) not in (1, 2):
        raise ValueError(f"{entry.label}: cannot store {entry.dtype} of shape {entry.shape}")
    rows, columns = (*entry.shape, 1)[:2]
    block, number = sort_key(entry)
    kind = _TYPES.index(entry.dtype)
    return _ENTRY.pack(number, block, kind, len(entry.shape), rows, columns, bytes(4), entry.xxh3)


def read_table(reader: ByteReader, num_arrays: int) -> tuple[ArrayEntry, ...]:
    """The entries of the array table.

    Raises:
        BitstreamError: an entry that the format does not allow, or entries out of order.
    """
    entries: list[ArrayEntry] = []
    for index in range(num_arrays):
        field = f"arrays[{index}]"
        entry = _read_entry(reader, field)
        if entries and sort_key(entries[-1]) >= sort_key(entry):
            reader.fail("not in ascending order of block and name", field)
        entries.append(entry)
    return tuple(entries)


def read_arrays(data: memoryview, entries: Iterable[ArrayEntry], offset: int) -> list[PlacedArray]:
    """The arrays of a table as views of `data`; they begin at `offset` and reach to its end.

    Raises:
        BitstreamError: sizes that do not add up, a checksum that differs, padding that is not zero.
    """
    entries = tuple(entries)
    sizes = [entry.padded_bytes for entry in entries]
    stop = offset + sum(sizes)
    if stop != len(data):
        raise BitstreamError(
            f"header and arrays take {stop} bytes, the chunk has {len(data)}",
            field="arrays",
            offset=offset,
        )
    placed = []
    for entry, size in zip(entries, sizes, strict=True):
        placed.append(_place(data[offset : offset + size], entry, offset))
        offset += size
    return placed


def _read_entry(reader: ByteReader, field: str) -> ArrayEntry:
    number, block, dtype_number, ndim, rows, columns, padding, xxh3 = _ENTRY.unpack(
        reader.take(_ENTRY.size, field)
    )
    if number not in _NAMES:
        reader.fail(f"unknown name {number}", f"{field}.name")
    name = _NAMES[number]
    kind = _KINDS[name]
    if block and not kind.in_block:
        reader.fail(f"{name} is of no block, got {block}", f"{field}.block", skip=1)
    if dtype_number >= len(_TYPES) or _TYPE_NAMES[dtype_number] not in kind.types:
        message = f"{name} must be {' or '.join(kind.types)}, got type {dtype_number}"
        reader.fail(message, f"{field}.type", skip=2)
    if ndim != kind.ndim:
        reader.fail(f"expected {kind.ndim}, got {ndim}", f"{field}.ndim", skip=3)
    if ndim == 1 and columns != 1:
        reader.fail(f"expected 1 as second dimension, got {columns}", f"{field}.dims", skip=8)
    if kind.length not in (None, rows):
        message = f"expected {kind.length} entries of {name}, got {rows}"
        reader.fail(message, f"{field}.dims", skip=4)
    if any(padding):
        reader.fail("expected zero bytes", f"{field}.padding", skip=12)
    shape = (rows, columns)[:ndim]
    return ArrayEntry(name, block if kind.in_block else None, _TYPES[dtype_number], shape, xxh3)


def _place(stored: memoryview, entry: ArrayEntry, offset: int) -> PlacedArray:
    """The array in these bytes, which begin at `offset`."""
    values: Array = np.ndarray(entry.shape, dtype=entry.dtype, buffer=stored)
    values.flags.writeable = False
    placed = PlacedArray(entry, offset, values)
    if xxhash.xxh3_64_intdigest(stored) != entry.xxh3:
        placed.fail("the checksum differs: the array is damaged")
    if any(stored[entry.size_bytes :]):
        placed.fail("the padding is not zero")
    return placed
