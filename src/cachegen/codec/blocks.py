"""A matrix of symbols to a coded block and back: active coefficients, order, grid, kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cachegen import kernels
from cachegen.codec.encoded import Block
from cachegen.errors import BitstreamError
from cachegen.kernels.layout import MAX_TABLES_PER_SUBSTREAM, CodedBlock, Coding

# FORMAT.md, sections 3 and 6.
ESCAPE = 0

# States take two words a lane: of 32 lanes 64 words, one percent of a substream.
_SUBSTREAM_WORDS = 6400
# Arbitrary: 2^16 to 2^24 do. Symbols counted at once.
_STRIPE_SYMBOLS = 1 << 20
# Parts of the coefficients that are put in order at once: each reads all symbols. With 64 decoding
# `adaptive` took a fifth longer than with 1, which takes as much memory again as the symbols.
PASSES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What the columns of a coded block are.

    Attributes:
        order: int64 (coefficients,): the active ones as they are coded, then the others.
        num_active: how many of them are coded.
        table_ids: int32 (columns,), rows of the block's own `frequencies`; padding has one too.
        frequencies: uint16 (tables, 256).
    """

    order: np.ndarray
    num_active: int
    table_ids: np.ndarray
    frequencies: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBlock:
    """The symbols of a block, in the order in which they were coded.

    They are put in the coefficients' order a few columns at a time: all at once they would take
    their memory twice.

    Attributes:
        coded: uint8 (rows, active coefficients and padding).
        num_active: coefficients that were coded.
        places: int64 (coefficients,): where each is among the columns of `coded` and, behind the
            active ones, among `constants`.
        constants: uint8 (inactive coefficients,).
    """

    coded: np.ndarray
    num_active: int
    places: np.ndarray
    constants: np.ndarray

    @property
    def num_rows(self) -> int:
        """Rows of the matrix."""
        return len(self.coded)

    def columns(self, first: int, stop: int) -> np.ndarray:
        """The symbols of the coefficients ``first .. stop``: uint8 (rows, coefficients)."""
        places = self.places[first:stop]
        if not len(self.constants):
            return self.coded.take(places, axis=1)
        is_coded = places < self.num_active
        found = np.empty((len(self.coded), len(places)), dtype=np.uint8)
        found[:, is_coded] = self.coded.take(places[is_coded], axis=1)
        found[:, ~is_coded] = self.constants[places[~is_coded] - self.num_active]
        return found

    def split(self, widths: Iterable[int]) -> Iterator[np.ndarray]:
        """The symbols of neighbouring coefficients, of so many each: uint8 (rows, width), views."""
        whole, first, place, each = self.columns(0, 0), 0, 0, -(-len(self.places) // PASSES)
        for width in widths:
            if place + width > first + whole.shape[1]:
                del whole  # before the next are put in order
                first, stop = place, min(place + max(width, each), len(self.places))
                whole = self.columns(first, stop)
            yield whole[:, place - first : place - first + width]
            place += width

    def count(self, symbol: int) -> np.ndarray:
        """How often a symbol occurs in each row: int64 (rows,)."""
        counts = np.full(len(self.coded), np.count_nonzero(self.constants == symbol))
        stripe = max(1, _STRIPE_SYMBOLS // max(self.num_active, 1))
        for first in range(0, len(self.coded), stripe):
            found = self.coded[first : first + stripe, : self.num_active] == symbol
            if found.any():
                counts[first : first + stripe] += found.sum(axis=1)
        return counts


def encode_block(
    symbols: np.ndarray,
    escapes: np.ndarray,
    table_ids: np.ndarray,
    frequencies: np.ndarray,
    *,
    threads: int,
) -> Block:
    """Code uint8 symbols (rows, coefficients) with the tables of their coefficients.

    Args:
        symbols: uint8 (rows, coefficients).
        escapes: integers behind the escape symbols, row-major.
        table_ids: (coefficients,) rows of `frequencies`.
        frequencies: uint16 (tables, 256).
        threads: worker threads.
    """
    rows = len(symbols)
    first = symbols[0] if rows else np.zeros(symbols.shape[1], dtype=np.uint8)
    active = (symbols != first).any(axis=0)
    lanes, groups_per_substream = _grid(rows, table_ids[active], frequencies)
    columns = coded_columns(active, table_ids, frequencies, lanes=lanes)
    coded = np.zeros((rows, len(columns.table_ids)), dtype=np.uint8)
    coded[:, : columns.num_active] = symbols[:, columns.order[: columns.num_active]]
    coding = Coding(
        columns.table_ids,
        columns.frequencies,
        lanes=lanes,
        rows_per_substream=max(rows, 1),
        groups_per_substream=groups_per_substream,
    )
    result = kernels.encode(coded, coding, threads=threads)
    return Block(
        num_rows=rows,
        active=active,
        constants=first[~active],
        escapes=narrow(escapes),
        lanes=lanes,
        rows_per_substream=coding.rows_per_substream,
        groups_per_substream=groups_per_substream,
        sizes=result.sizes,
        words=result.words,
    )


def decode_block(
    block: Block,
    table_ids: np.ndarray,
    frequencies: np.ndarray,
    *,
    threads: int,
    by_table: np.ndarray | None = None,
) -> DecodedBlock:
    """The symbols of a block; `by_table` as in `coded_columns`.

    Raises:
        BitstreamError: words that do not decode.
    """
    columns = coded_columns(
        block.active, table_ids, frequencies, lanes=block.lanes, by_table=by_table
    )
    coding = Coding(
        columns.table_ids,
        columns.frequencies,
        lanes=block.lanes,
        rows_per_substream=block.rows_per_substream,
        groups_per_substream=block.groups_per_substream,
    )
    coded = CodedBlock(block.words, block.sizes)
    decoded = kernels.decode(coded, coding, num_rows=block.num_rows, threads=threads)
    places = np.empty(len(columns.order), dtype=np.int64)
    places[columns.order] = np.arange(len(places))
    return DecodedBlock(decoded, columns.num_active, places, block.constants)


def sorted_by_table(table_ids: np.ndarray) -> np.ndarray:
    """Coefficients in the order of their tables, those of one table in their own: int64."""
    return np.argsort(table_ids, kind="stable")


def coded_columns(
    active: np.ndarray,
    table_ids: np.ndarray,
    frequencies: np.ndarray,
    *,
    lanes: int,
    by_table: np.ndarray | None = None,
) -> Columns:
    """The columns of a block with these active coefficients: sorted by table, whole groups.

    Args:
        active: bool (coefficients,).
        table_ids: (coefficients,) rows of `frequencies`.
        frequencies: uint16 (tables, 256).
        lanes: columns of a group.
        by_table: `sorted_by_table` of the ids, for whoever has it.
    """
    coefficients = sorted_by_table(table_ids) if by_table is None else by_table
    coefficients = coefficients[active[coefficients]]
    sorted_ids = table_ids[coefficients]
    is_first = np.diff(sorted_ids, prepend=-1) != 0
    used, ids = sorted_ids[is_first], np.cumsum(is_first) - 1
    padding = np.full(-len(coefficients) % lanes, len(used))
    skip = np.zeros((1, 256), dtype=np.uint16)
    skip[0, :2] = 4095, 1
    return Columns(
        order=np.concatenate([coefficients, np.flatnonzero(~active)]),
        num_active=len(coefficients),
        table_ids=np.concatenate([ids, padding]).astype(np.int32),
        frequencies=np.concatenate([frequencies[used], skip]),
    )


def narrow(integers: np.ndarray) -> np.ndarray:
    """The same integers in the narrowest of int8, int16 and int32."""
    for dtype in (np.int8, np.int16):
        limits = np.iinfo(dtype)
        if not len(integers) or (integers.min() >= limits.min and integers.max() <= limits.max):
            return integers.astype(dtype)
    return integers.astype(np.int32)


def _grid(rows: int, table_ids: np.ndarray, frequencies: np.ndarray) -> tuple[int, int]:
    """Lanes and groups per substream that keep the states' cost near one percent.

    A substream of more tables than a decoder takes gets fewer groups.
    """
    used, counts = np.unique(table_ids, return_counts=True)
    p = frequencies[used].astype(np.float32) / 4096
    entropy = -(p * np.log2(np.maximum(p, 1e-9))).sum(axis=1)
    words = rows * float(entropy @ counts) / 16
    lanes = 8 if words < _SUBSTREAM_WORDS / 2 else 16 if words < _SUBSTREAM_WORDS else 32
    groups = -(-len(table_ids) // lanes)
    if words >= _SUBSTREAM_WORDS:
        groups = min(groups, round(_SUBSTREAM_WORDS * groups / words))
    if len(used) >= MAX_TABLES_PER_SUBSTREAM:
        groups = min(groups, MAX_TABLES_PER_SUBSTREAM // lanes)
    return lanes, max(1, groups)


def check_escapes(decoded: DecodedBlock, escapes: np.ndarray) -> np.ndarray:
    """How many escapes each row has: int64 (rows,).

    Raises:
        BitstreamError: other than one escape value for each escape symbol.
    """
    counts = decoded.count(ESCAPE)
    total = int(counts.sum())
    if total != len(escapes):
        raise BitstreamError(f"expected {total} escapes, got {len(escapes)}", field="escapes")
    return counts
