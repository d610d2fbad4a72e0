"""Probability tables shared by many coefficients: clustering histograms, packing tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cachegen.errors import BitstreamError
from cachegen.kernels.tables import normalise

# 256 tables would save 0.3% of the bytes, one for every coefficient 0.7% (docs/LOG.md, 2026-11-21).
MAX_TABLES = 64
# FORMAT.md, `paper`. Arbitrary: 1 to 8 do; what a margin does not hold becomes an escape.
MARGIN = 3
SYMBOLS = 256
# Arbitrary: 4 to 20 do; Lloyd's algorithm gains little after the first few rounds.
_ROUNDS = 6
# Arbitrary: 64 to 65,536 do. Tables unpacked at once while they are checked, 1 MiB.
_STRIPE_TABLES = 2048


def histograms(symbols: np.ndarray) -> np.ndarray:
    """Count symbols: uint8 (rows, coefficients) to int64 (coefficients, 256)."""
    rows, columns = symbols.shape
    counts = np.zeros((columns, SYMBOLS), dtype=np.int64)
    base = (np.arange(columns) * SYMBOLS).astype(np.int32)
    for first in range(0, rows, 256):
        flat = (symbols[first : first + 256] + base).ravel()
        counts += np.bincount(flat, minlength=columns * SYMBOLS).reshape(columns, SYMBOLS)
    return counts


def cluster(counts: np.ndarray, *, max_tables: int) -> tuple[np.ndarray, np.ndarray]:
    """Share few tables among many coefficients, at the least cost in bits.

    Lloyd's algorithm on cross-entropy, started from coefficients sorted by their spread.

    Args:
        counts: int64 (coefficients, 256), histograms.
        max_tables: at most so many tables.

    Returns:
        Summed counts int64 (tables, 256) and the table of every coefficient (coefficients,).
        Every table is used; coefficients without counts get table 0.
    """
    used = np.flatnonzero(counts.sum(axis=1))
    if not len(used):
        return np.zeros((1, SYMBOLS), dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    weights = counts[used].astype(np.float32)
    ids = _initial(weights, max_tables)
    for _ in range(_ROUNDS):
        ids = _assign(weights, _sum_by(weights, ids, max_tables))
    present, ids = np.unique(ids, return_inverse=True)
    all_ids = np.zeros(len(counts), dtype=np.int64)
    all_ids[used] = ids
    sums = np.zeros((len(present), SYMBOLS), dtype=np.int64)
    np.add.at(sums, ids, counts[used])
    return sums, all_ids


def _initial(weights: np.ndarray, max_tables: int) -> np.ndarray:
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    mean = probabilities @ np.arange(SYMBOLS)
    spread = probabilities @ np.arange(SYMBOLS) ** 2 - mean**2
    ids = np.empty(len(weights), dtype=np.int64)
    ids[np.argsort(spread, kind="stable")] = np.arange(len(weights)) * max_tables // len(weights)
    return ids


def _sum_by(weights: np.ndarray, ids: np.ndarray, num_tables: int) -> np.ndarray:
    member = np.zeros((num_tables, len(ids)), dtype=np.float32)
    member[ids, np.arange(len(ids))] = 1.0
    sums: np.ndarray = member @ weights
    return sums


def _assign(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
    smoothed = sums + np.float32(1e-3)
    bits = -np.log2(smoothed / smoothed.sum(axis=1, keepdims=True))
    cost = weights @ bits.T
    cost[:, sums.sum(axis=1) == 0] = np.inf
    return np.asarray(cost.argmin(axis=1))


def table_frequencies(counts: np.ndarray, *, margin: int, escape: bool) -> np.ndarray:
    """Valid frequencies, uint16 (tables, 256), whose supports have no holes.

    Args:
        counts: int64 (tables, 256).
        margin: symbols by which to widen a support on both sides, for data not yet seen.
        escape: symbol 0 is an escape: it stays apart from the support and can always be coded.
    """
    padded = counts * 64
    first_symbol = 1 if escape else 0
    for row, observed in zip(padded, counts, strict=True):
        symbols = np.flatnonzero(observed[first_symbol:]) + first_symbol
        low, high = (symbols[0], symbols[-1]) if len(symbols) else (128, 128)
        row[max(low - margin, first_symbol) : high + margin + 1] += 1
        row[0] += escape
    return normalise(padded)


@dataclass(frozen=True, slots=True, eq=False)
class PackedTables:
    """Tables without their zeros, as files have them: unpacked they take up to 85 times as much.

    Attributes:
        supports: uint8 (tables, 2), as in FORMAT.md, section 2.
        frequencies: uint16 (n,), likewise.
        firsts: int64 (tables,): where the frequencies of each table begin.
    """

    supports: np.ndarray
    frequencies: np.ndarray
    firsts: np.ndarray

    @classmethod
    def read(cls, supports: np.ndarray, frequencies: np.ndarray) -> PackedTables:
        """Check tables without unpacking all of them at once.

        Raises:
            BitstreamError: supports that do not fit the frequencies, or invalid frequencies.
        """
        low, high = supports[:, 0], supports[:, 1]
        if not len(supports) or (low < 1).any() or (high < low).any():
            raise BitstreamError(
                "expected 1 <= first <= last symbol in every table", field="supports"
            )
        stops = np.cumsum(_lengths(supports))
        if stops[-1] != len(frequencies):
            raise BitstreamError(
                f"expected {stops[-1]} frequencies for these supports, got {len(frequencies)}",
                field="frequencies",
            )
        found = cls(supports, frequencies, stops - _lengths(supports))
        for first in range(0, len(found), _STRIPE_TABLES):
            ids = np.arange(first, min(first + _STRIPE_TABLES, len(found)))
            _check(found.unpacked(ids), _stored(supports[ids]))
        return found

    def __len__(self) -> int:
        """How many tables there are."""
        return len(self.supports)

    def unpacked(self, ids: np.ndarray) -> np.ndarray:
        """Some of the tables, uint16 (ids, 256)."""
        tables = np.zeros((len(ids), SYMBOLS), dtype=np.uint16)
        for first in range(0, len(ids), _STRIPE_TABLES):
            own = ids[first : first + _STRIPE_TABLES]
            lengths = _lengths(self.supports[own])
            before = np.cumsum(lengths) - lengths
            places = np.repeat(self.firsts[own] - before, lengths)
            places += np.arange(len(places))
            stored = _stored(self.supports[own])
            tables[first : first + len(own)][stored] = self.frequencies[places]
        return tables

    @property
    def code_escapes(self) -> bool:
        """Whether every table can code symbol 0."""
        return bool(self.frequencies[self.firsts].all())


def pack_tables(frequencies: np.ndarray | PackedTables) -> tuple[np.ndarray, np.ndarray]:
    """Tables without their zeros: `supports` and `frequencies` of FORMAT.md, section 2."""
    if isinstance(frequencies, PackedTables):
        return frequencies.supports, frequencies.frequencies
    usable = frequencies[:, 1:] > 0
    low = usable.argmax(axis=1) + 1
    high = usable.shape[1] - usable[:, ::-1].argmax(axis=1)
    supports = np.stack([low, high], axis=1).astype(np.uint8)
    return supports, frequencies[_stored(supports)]


def unpack_tables(supports: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """The inverse of `pack_tables`: uint16 (tables, 256).

    Raises:
        BitstreamError: supports that do not fit the frequencies, or invalid frequencies.
    """
    found = PackedTables.read(supports, frequencies)
    return found.unpacked(np.arange(len(found)))


def used_tables(
    frequencies: np.ndarray | PackedTables, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of packed tables those that are named, and the ids among them; others as they are."""
    if not isinstance(frequencies, PackedTables):
        return frequencies, ids
    used, own = np.unique(ids, return_inverse=True)
    return frequencies.unpacked(used), own


def _lengths(supports: np.ndarray) -> np.ndarray:
    """How many frequencies each table has: those of its support and that of symbol 0."""
    ends = supports.astype(np.int64)
    lengths: np.ndarray = ends[:, 1] - ends[:, 0] + 2
    return lengths


def _check(tables: np.ndarray, stored: np.ndarray) -> None:
    """Refuse tables, of which some entries are stored, that are no distributions.

    Raises:
        BitstreamError: says what is wrong with them.
    """
    if (tables.sum(axis=1, dtype=np.int64) != 4096).any() or tables.max() > 4095:
        raise BitstreamError(
            "every table must sum to 4096 with no entry above 4095", field="frequencies"
        )
    if (stored[:, 1:] & (tables[:, 1:] == 0)).any():
        raise BitstreamError("expected no zeros between first and last", field="frequencies")


def _stored(supports: np.ndarray) -> np.ndarray:
    """Which entries of the tables are stored, bool (tables, 256): symbol 0 and the support."""
    symbols = np.arange(SYMBOLS)
    stored = (symbols >= supports[:, :1]) & (symbols <= supports[:, 1:])
    stored[:, 0] = True
    return stored


def narrow_ids(ids: np.ndarray) -> np.ndarray:
    """Table ids in the narrowest of uint8, uint16 and uint32."""
    largest = int(ids.max()) if len(ids) else 0
    for dtype in (np.uint8, np.uint16):
        if largest <= np.iinfo(dtype).max:
            return ids.astype(dtype)
    return ids.astype(np.uint32)
