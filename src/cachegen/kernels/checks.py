"""Checks of arguments that every kernel set makes, and the errors that it raises.

Mistakes of the caller are ValueError and TypeError. Data that a decoder reads from a bitstream may
be hostile, so it is checked as well, and BitstreamError is raised.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cachegen.errors import BitstreamError
from cachegen.kernels.layout import (
    ALPHABET,
    LANE_COUNTS,
    MAX_FREQUENCY,
    MAX_TABLES_PER_SUBSTREAM,
    PADDING_WORDS,
    PROBABILITY_SCALE,
    CodedBlock,
    Coding,
    Grid,
    Lookup,
    PlaneLayout,
    PlaneRotation,
    Synthesis,
)

SHORT_STREAM = "has fewer words than its initial states take"
LOW_STATE = "has an initial state below 2**16"
OUT_OF_WORDS = "needs more words than it has"
BAD_END = "does not end at the states and the word where its encoder began"


def check_encode(symbols: NDArray[np.uint8], coding: Coding, *, threads: int) -> Grid:
    """The grid of a block to encode, after every check but that its symbols can be coded."""
    check_array(symbols, "symbols", dtype=np.uint8, ndim=2)
    num_rows, num_columns = symbols.shape
    if num_columns != coding.table_ids.size:
        raise ValueError(f"symbols has {num_columns} columns, table_ids {coding.table_ids.size}")
    try:
        return _check_tables(coding, num_rows=num_rows, threads=threads)
    except BitstreamError as error:
        raise ValueError(str(error)) from None


def check_decode(block: CodedBlock, coding: Coding, *, num_rows: int, threads: int) -> Grid:
    """The grid of a block to decode, after every check but those of decoding itself."""
    check_array(block.words, "words", dtype=np.uint16, ndim=1)
    check_array(block.sizes, "sizes", dtype=np.uint32, ndim=1)
    if num_rows < 0:
        raise ValueError(f"num_rows must not be negative, got {num_rows}")
    grid = _check_tables(coding, num_rows=num_rows, threads=threads)
    _check_words(block.words, block.sizes, grid)
    return grid


def raise_uncodable(symbols: NDArray[np.uint8], coding: Coding) -> NoReturn:
    """Raise the error that names the first symbol, row by row, whose frequency is zero."""
    for row, values in enumerate(symbols):
        absent = np.flatnonzero(coding.frequencies[coding.table_ids, values] == 0)
        if absent.size:
            column = int(absent[0])
            raise ValueError(
                f"symbol {values[column]} at row {row}, column {column} has frequency 0 in table"
                f" {coding.table_ids[column]}; give it a frequency or code another symbol"
            )
    raise AssertionError("every symbol has a frequency")


def raise_damaged(substream: int, reason: str) -> NoReturn:
    """Raise the error of a substream that cannot be what an encoder made."""
    raise BitstreamError(f"substream {substream} {reason}", field="words")


def check_array(array: NDArray[Any], name: str, *, dtype: type[np.generic], ndim: int) -> None:
    """Refuse an array of another type or number of dimensions."""
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype)}, got {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {array.shape}")


def _check_tables(coding: Coding, *, num_rows: int, threads: int) -> Grid:
    check_array(coding.table_ids, "table_ids", dtype=np.int32, ndim=1)
    check_array(coding.frequencies, "frequencies", dtype=np.uint16, ndim=2)
    lanes, num_columns = coding.lanes, coding.table_ids.size
    if lanes not in LANE_COUNTS:
        raise ValueError(f"lanes must be one of {LANE_COUNTS}, got {lanes}")
    rows_each, groups_each = coding.rows_per_substream, coding.groups_per_substream
    if min(rows_each, groups_each, threads) < 1:
        raise ValueError(
            "rows_per_substream, groups_per_substream and threads must be at least 1,"
            f" got {rows_each}, {groups_each} and {threads}"
        )
    if num_columns % lanes:
        raise ValueError(f"{num_columns} columns are not a multiple of {lanes} lanes; pad them")
    _check_frequencies(coding.frequencies)
    _check_table_ids(
        coding.table_ids, len(coding.frequencies), columns_per_part=groups_each * lanes
    )
    return Grid(num_rows, num_columns // lanes, rows_each, groups_each)


def _check_frequencies(frequencies: NDArray[np.uint16]) -> None:
    if frequencies.shape[1] != ALPHABET:
        raise ValueError(f"frequencies must be (tables, {ALPHABET}), got {frequencies.shape}")
    sums = frequencies.sum(axis=1, dtype=np.int64)
    wrong = np.flatnonzero(sums != PROBABILITY_SCALE)
    if wrong.size:
        raise BitstreamError(
            f"table {wrong[0]} sums to {sums[wrong[0]]}, not {PROBABILITY_SCALE}",
            field="frequencies",
        )
    if frequencies.max(initial=0) > MAX_FREQUENCY:
        table = int(np.flatnonzero(frequencies.max(axis=1) > MAX_FREQUENCY)[0])
        raise BitstreamError(f"table {table} has only one symbol", field="frequencies")


def _check_table_ids(
    table_ids: NDArray[np.int32], num_tables: int, *, columns_per_part: int
) -> None:
    if table_ids.size == 0:
        return
    if table_ids.min() < 0 or table_ids.max() >= num_tables:
        column = int(np.flatnonzero((table_ids < 0) | (table_ids >= num_tables))[0])
        raise BitstreamError(
            f"column {column} names table {table_ids[column]} of {num_tables}", field="table_ids"
        )
    if num_tables <= MAX_TABLES_PER_SUBSTREAM:
        return
    for first in range(0, table_ids.size, columns_per_part):
        used = np.unique(table_ids[first : first + columns_per_part]).size
        if used > MAX_TABLES_PER_SUBSTREAM:
            raise BitstreamError(
                f"a substream uses {used} tables, more than {MAX_TABLES_PER_SUBSTREAM};"
                " use fewer groups per substream",
                field="table_ids",
            )


def _check_words(words: NDArray[np.uint16], sizes: NDArray[np.uint32], grid: Grid) -> None:
    if sizes.size != grid.num_substreams:
        raise BitstreamError(
            f"{sizes.size} sizes for {grid.num_substreams} substreams", field="sizes"
        )
    expected = int(sizes.sum(dtype=np.uint64)) + PADDING_WORDS
    if words.size != expected:
        raise BitstreamError(
            f"{words.size} words, but the sizes and the padding make {expected}", field="words"
        )
    if words[-PADDING_WORDS:].any():
        raise BitstreamError("the padding is not zero", field="words")


ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.uint16,
}
# Entries of a tail are bytes times a power of two, 2^8 at most: 127 * 2^8 is the most in int16.
MOST_SHIFT = 8
LARGEST_BYTE = 127


def check_synthesise(work: Synthesis, out: NDArray[Any], *, threads: int) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError, TypeError: says which and why.
    """
    if work.dtype not in ELEMENT_TYPES:
        raise ValueError(f"dtype must be one of {', '.join(ELEMENT_TYPES)}, got {work.dtype!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    _check_matrices(work)
    _check_rows(work)
    if work.tail is not None and work.tail < 0:
        raise ValueError(f"tail must not be negative, got {work.tail}")
    num_rows, num_columns = len(work.coefficients), work.basis.shape[1]
    for index, lookup in enumerate(work.lookups):
        _check_lookup(lookup, f"lookups[{index}]", num_rows, num_columns)
    for index, turn in enumerate(work.rotations):
        _check_turn(turn, f"rotations[{index}]", num_rows)
    for index, plane in enumerate(work.planes):
        _check_plane(plane, f"planes[{index}]", work.rotations)
    width = sum(plane.width for plane in work.planes)
    if width != num_columns:
        raise ValueError(f"the planes have {width} columns, the basis {num_columns}")
    check_array(out, "out", dtype=ELEMENT_TYPES[work.dtype], ndim=1)
    _check_out(out, work.planes, work.num_tokens)


def check_tail(rows: NDArray[np.int16]) -> None:
    """Refuse rows of a basis that are not of 8 bits, see `find_shifts` of the native set.

    Raises:
        ValueError: a column has no power of two that leaves whole numbers of -127 to 127.
    """
    largest = np.abs(rows.astype(np.int32)).max(axis=0, initial=0)
    units = LARGEST_BYTE << np.arange(MOST_SHIFT + 1)
    shifts = np.searchsorted(units, largest)
    if (largest > units[-1]).any() or (rows & ((1 << shifts) - 1)).any():
        raise ValueError("the tail of the basis is not of 8 bits")


def _check_matrices(work: Synthesis) -> None:
    check_array(work.coefficients, "coefficients", dtype=np.int16, ndim=2)
    check_array(work.basis, "basis", dtype=np.int16, ndim=2)
    check_array(work.scales, "scales", dtype=np.float32, ndim=1)
    check_array(work.means, "means", dtype=np.float32, ndim=1)
    num_coefficients = work.coefficients.shape[1]
    num_rows, num_columns = work.basis.shape
    if num_coefficients != num_rows:
        raise ValueError(f"coefficients has {num_coefficients} columns, but basis {num_rows} rows")
    if not num_columns == work.scales.size == work.means.size:
        raise ValueError(
            f"basis has {num_columns} columns, but there are {work.scales.size} scales and"
            f" {work.means.size} means"
        )


def _check_rows(work: Synthesis) -> None:
    num_rows = len(work.coefficients)
    _check_tokens(work.tokens, num_rows, work.num_tokens)
    if work.depths is not None:
        _check_depths(work.depths, work.coefficients)
    if work.multipliers is not None:
        check_array(work.multipliers, "multipliers", dtype=np.int64, ndim=1)
        if len(work.multipliers) != num_rows:
            raise ValueError(f"there are {len(work.multipliers)} multipliers for {num_rows} rows")


def _check_tokens(tokens: NDArray[np.int64], num_rows: int, num_tokens: int) -> None:
    check_array(tokens, "tokens", dtype=np.int64, ndim=1)
    if len(tokens) != num_rows:
        raise ValueError(f"there are {len(tokens)} tokens for {num_rows} rows")
    if num_rows == 0:
        return
    in_order = np.sort(tokens)
    if in_order[0] < 0 or in_order[-1] >= num_tokens:
        raise ValueError(
            f"tokens {in_order[0]} to {in_order[-1]} do not fit into {num_tokens} tokens"
        )
    if (in_order[1:] == in_order[:-1]).any():
        raise ValueError("two rows are the same token")


def _check_depths(depths: NDArray[np.int64], coefficients: NDArray[np.int16]) -> None:
    check_array(depths, "depths", dtype=np.int64, ndim=1)
    num_rows, num_coefficients = coefficients.shape
    if len(depths) != num_rows:
        raise ValueError(f"there are {len(depths)} depths for {num_rows} rows")
    if num_rows and not 0 <= depths.min() <= depths.max() <= num_coefficients:
        raise ValueError(
            f"depths are {depths.min()} to {depths.max()}, but rows have {num_coefficients}"
            " coefficients"
        )


def _check_lookup(lookup: Lookup, name: str, num_rows: int, num_columns: int) -> None:
    check_array(lookup.table, f"{name}.table", dtype=np.int8, ndim=2)
    check_array(lookup.ids, f"{name}.ids", dtype=np.int64, ndim=1)
    check_array(lookup.basis, f"{name}.basis", dtype=np.int16, ndim=2)
    if len(lookup.ids) != num_rows:
        raise ValueError(f"{name} has {len(lookup.ids)} ids for {num_rows} rows")
    expected = (lookup.table.shape[1], num_columns)
    if lookup.basis.shape != expected:
        raise ValueError(f"{name}.basis must be {expected}, got {lookup.basis.shape}")


def _check_turn(turn: PlaneRotation, name: str, num_rows: int) -> None:
    check_array(turn.cos, f"{name}.cos", dtype=np.float32, ndim=2)
    check_array(turn.sin, f"{name}.sin", dtype=np.float32, ndim=2)
    if turn.cos.shape != turn.sin.shape or len(turn.cos) != num_rows:
        raise ValueError(
            f"{name} must have a cosine and a sine for each of {num_rows} rows and every pair,"
            f" got {turn.cos.shape} and {turn.sin.shape}"
        )


def _check_plane(plane: PlaneLayout, name: str, rotations: Sequence[PlaneRotation]) -> None:
    if min(plane.heads, plane.dim) < 1 or plane.offset < 0:
        raise ValueError(f"{name} has no values or a negative offset: {plane}")
    if plane.rotation is None:
        return
    if not 0 <= plane.rotation < len(rotations):
        raise ValueError(f"{name} names rotation {plane.rotation} of {len(rotations)}")
    num_turning = 2 * rotations[plane.rotation].cos.shape[1]
    if num_turning > plane.dim:
        raise ValueError(f"{name}: {num_turning} dimensions turn, a head has {plane.dim}")


def _check_out(out: NDArray[Any], planes: Sequence[PlaneLayout], num_tokens: int) -> None:
    if not out.flags.writeable or not out.flags.c_contiguous:
        raise ValueError("out must be writeable and contiguous")
    spans = sorted((plane.offset, plane.offset + num_tokens * plane.width) for plane in planes)
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise ValueError("planes overlap in out")
    if spans and spans[-1][1] > out.size:
        raise ValueError(f"out has {out.size} elements, the planes end at {spans[-1][1]}")
