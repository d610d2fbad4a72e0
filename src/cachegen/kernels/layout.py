"""The shape of a coded block: constants, the coded arrays, and how a block is cut into substreams.

A block is a rectangle of uint8 symbols, (rows, columns). `lanes` adjacent columns make a group;
a grid of rectangles of rows x groups makes the substreams. FORMAT.md is normative.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANE_COUNTS = (8, 16, 32)
ALPHABET = 256
PROBABILITY_BITS = 12
PROBABILITY_SCALE = 1 << PROBABILITY_BITS
MAX_FREQUENCY = PROBABILITY_SCALE - 1
WORD_BITS = 16
LOWEST_STATE = 1 << WORD_BITS
PADDING_WORDS = 32
# One decode table takes 16 KiB, so this caps what a substream's tables can make a decoder allocate.
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
