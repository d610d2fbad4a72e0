"""Frequency tables from counts: rounded to 12 bits at almost the least cost in coded length.

One more unit of frequency for a symbol of count c and frequency f saves c * log(1 + 1/f), which is
c / (f + 1/2) but for a few percent where f is 1 or 2. Giving every unit to whoever gains most by
that rule is the Webster method of sharing seats. All arithmetic is on integers, so that every
platform makes the same tables.
"""

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels.layout import ALPHABET, PROBABILITY_SCALE

# Counts sum to less than this; 40 + 22 bits leave a sign and a factor of 2 in 64 bits.
MAX_TOTAL = 1 << 40
# Bits of the fraction when a count is divided.
FRACTION_BITS = 22


def normalise(counts: NDArray[np.integer]) -> NDArray[np.uint16]:
    """Frequencies (tables, 256) that sum to 4096 from counts (tables, 256) of the symbols.

    Every symbol counted gets at least 1. A table with one symbol lends 1 to the symbol's neighbour
    (above it, or below 255), and a table without any is uniform.
    """
    shares = _with_two_symbols(_checked(counts))
    frequencies = _rounded(shares)
    surplus = frequencies.sum(axis=1) - PROBABILITY_SCALE
    while (tables := np.flatnonzero(surplus)).size:
        step = -np.sign(surplus[tables])
        worth = _worth(shares[tables], frequencies[tables], step)
        symbol = (worth * step[:, None]).argmax(axis=1)
        frequencies[tables, symbol] += step
        surplus[tables] += step
    return frequencies.astype(np.uint16)


def _checked(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"counts must be integers, got {counts.dtype}")
    if counts.ndim != 2 or counts.shape[1] != ALPHABET:
        raise ValueError(f"counts must be (tables, {ALPHABET}), got {counts.shape}")
    if counts.size and (counts.min() < 0 or counts.max() >= MAX_TOTAL // ALPHABET):
        raise ValueError(f"counts must be 0 to {MAX_TOTAL // ALPHABET - 1}; scale them down")
    return counts.astype(np.int64)


def _with_two_symbols(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    num_used = np.count_nonzero(counts, axis=1)
    counts[num_used == 0] = 1
    lone = np.flatnonzero(num_used == 1)
    symbol = counts[lone].argmax(axis=1)
    neighbour = np.where(symbol < ALPHABET - 1, symbol + 1, symbol - 1)
    counts[lone, symbol] = MAX_TOTAL // ALPHABET
    counts[lone, neighbour] = 1
    return counts


def _rounded(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Proportional shares of what symbols below one unit leave; sums to nearly the scale."""
    tiny = np.zeros(counts.shape, dtype=bool)
    while True:
        units = PROBABILITY_SCALE - tiny.sum(axis=1, keepdims=True)
        total = np.where(tiny, 0, counts).sum(axis=1, keepdims=True)
        more = (counts > 0) & ~tiny & (counts * units < total)
        if not more.any():
            break
        tiny |= more
    shares = np.where(tiny, counts > 0, (2 * counts * units + total) // (2 * total))
    return shares.astype(np.int64)


def _worth(
    counts: NDArray[np.int64], frequencies: NDArray[np.int64], step: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What the next unit up (step 1) or down (-1) is worth; never taken from a frequency of 1."""
    up = step[:, None] > 0
    worth = (counts << FRACTION_BITS) // (2 * frequencies + step[:, None]).clip(1)
    barred = np.where(up, -1, np.iinfo(np.int64).max)
    allowed = np.where(up, counts > 0, frequencies > 1)
    return np.where(allowed, worth, barred)
