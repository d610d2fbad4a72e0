"""Checks of arguments that every entropy coder makes, and the errors that it raises.

Mistakes of the caller are ValueError and TypeError. Data that a decoder reads from a bitstream may
be hostile, so it is checked as well, and BitstreamError is raised.
"""

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
