"""The shapes of arguments of kernels: coded blocks cut into substreams, and planes to fill.

A block is a rectangle of uint8 symbols, (rows, columns). `lanes` adjacent columns make a group;
a grid of rectangles of rows x groups makes the substreams. FORMAT.md is normative.
"""

from collections.abc import Iterator
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
