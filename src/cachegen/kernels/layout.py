"""The shapes of arguments of kernels: coded blocks cut into substreams, and planes to fill.

A block is a rectangle of uint8 symbols, (rows, columns). `lanes` adjacent columns make a group;
a grid of rectangles of rows x groups makes the substreams. FORMAT.md is normative.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# FORMAT.md, section 3, fixes all of these. 12 bits: a decode table of 4,096 entries takes 16 KiB
# and fits into a core's first cache. 32 words of padding: 64 bytes can be loaded at any word.
LANE_COUNTS = (8, 16, 32)
ALPHABET = 256
PROBABILITY_BITS = 12
PROBABILITY_SCALE = 1 << PROBABILITY_BITS
MAX_FREQUENCY = PROBABILITY_SCALE - 1
WORD_BITS = 16
LOWEST_STATE = 1 << WORD_BITS
PADDING_WORDS = 32
# This limits what the tables of a hostile substream can make a decoder allocate, to 64 MiB.
MAX_TABLES_PER_SUBSTREAM = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """How a block is coded: the tables of its columns, and what makes a substream.

    Attributes:
        table_ids: int32 (columns,): column c is coded by the table frequencies[table_ids[c]].
        frequencies: uint16 (tables, 256): what each symbol has of 4096.
        lanes: columns of a group, 8, 16 or 32.
        rows_per_substream: height of the substreams' rectangles.
        groups_per_substream: their width, in groups.
    """

    table_ids: NDArray[np.int32]
    frequencies: NDArray[np.uint16]
    lanes: int
    rows_per_substream: int
    groups_per_substream: int


@dataclass(frozen=True, slots=True)
class CodedBlock:
    """A block's words, padding included, and the words that each substream takes of them."""

    words: NDArray[np.uint16]
    sizes: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """The part of a block that one substream codes: rows [row, row_end), groups likewise."""

    row: int
    row_end: int
    group: int
    group_end: int


@dataclass(frozen=True, slots=True)
class Grid:
    """A block cut into rectangles of equal size, the last ones smaller."""

    num_rows: int
    num_groups: int
    rows_per_substream: int
    groups_per_substream: int

    @property
    def num_substreams(self) -> int:
        """How many rectangles the grid has; none if the block is empty."""
        row_parts = -(-self.num_rows // self.rows_per_substream)
        group_parts = -(-self.num_groups // self.groups_per_substream)
        return row_parts * group_parts

    def rectangles(self) -> Iterator[Rectangle]:
        """Every rectangle in the order of the substreams: the row part outermost."""
        for row in range(0, self.num_rows, self.rows_per_substream):
            for group in range(0, self.num_groups, self.groups_per_substream):
                yield Rectangle(
                    row=row,
                    row_end=min(row + self.rows_per_substream, self.num_rows),
                    group=group,
                    group_end=min(group + self.groups_per_substream, self.num_groups),
                )


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """Where a plane (heads, num_tokens, dim) begins in an array, and how it is rotated.

    Attributes:
        heads: of the plane.
        dim: values of a head.
        offset: of the plane's first value, in elements.
        rotation: an index into the rotations given with it, or None.
    """

    heads: int
    dim: int
    offset: int
    rotation: int | None = None

    @property
    def width(self) -> int:
        """Values per token."""
        return self.heads * self.dim


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """A term added to the sums of each row, chosen by the row's id: table[id] @ basis.

    Attributes:
        table: int8 (entries, features).
        ids: int64 (rows,); those beyond the table, negative ones too, add nothing.
        basis: int16 (features, columns).
    """

    table: NDArray[np.int8]
    ids: NDArray[np.int64]
    basis: NDArray[np.int16]


@dataclass(frozen=True, slots=True, eq=False)
class PlaneRotation:
    """A rotation of the first 2 * pairs dimensions of a head, row by row.

    Attributes:
        cos: float32 (rows, pairs).
        sin: likewise.
        interleaved: dimensions 2i and 2i + 1 make a pair; otherwise i and i + pairs.
    """

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    interleaved: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Synthesis:
    """Planes to make: (multipliers * (coefficients @ basis) + lookups) * scales + means.

    Sums wrap at 32 bits. The columns are those of the planes side by side. Values are rotated
    where a plane says so, then rounded to `dtype`.

    Rows cost what the deepest of their neighbours does: keep rows of like depth together.

    Attributes:
        coefficients: int16 (rows, C).
        basis: int16 (C, columns).
        scales: float32 (columns,): what 1 of a sum is in values.
        means: float32 (columns,), in values.
        planes: (heads, num_tokens, dim) each, in the order of their columns.
        rotations: those that planes name, each of all rows.
        num_tokens: tokens of a plane.
        tokens: int64 (rows,): which of a plane's tokens the rows are, no two the same.
        dtype: of the planes, float32, bfloat16 or float16.
        lookups: added to the sums.
        depths: int64 (rows,): only so many leading coefficients of a row count, and the others are
            not read; None for all.
        multipliers: int64 (rows,); None for ones.
        tail: the basis from this row on is of 8 bits: a column's entries are multiples of a power
            of two, 127 times that at most. Some sets are faster there where coefficients are of 8
            bits too.
    """

    coefficients: NDArray[np.int16]
    basis: NDArray[np.int16]
    scales: NDArray[np.float32]
    means: NDArray[np.float32]
    planes: Sequence[PlaneLayout]
    rotations: Sequence[PlaneRotation]
    num_tokens: int
    tokens: NDArray[np.int64]
    dtype: str
    lookups: Sequence[Lookup] = ()
    depths: NDArray[np.int64] | None = None
    multipliers: NDArray[np.int64] | None = None
    tail: int | None = None
