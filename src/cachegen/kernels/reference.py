"""The definition of the entropy coder: interleaved range ANS (rANS), in NumPy, slow and plain.

A substream is one set of `lanes` states that runs over a rectangle row by row and, in a row, group
by group. Lane i of a group is its column i. The lanes share one stream of 16-bit words, which each
step fills (or drains) in lane order. The encoder runs backwards, so that the decoder runs forwards.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import checks
from cachegen.kernels.layout import (
    LOWEST_STATE,
    PADDING_WORDS,
    PROBABILITY_BITS,
    PROBABILITY_SCALE,
    WORD_BITS,
    CodedBlock,
    Coding,
)

SLOT_MASK = PROBABILITY_SCALE - 1
WORD_MASK = (1 << WORD_BITS) - 1
# A state must stay below 2**32 after coding: freq * 2**20 is where it would not.
RENORMALISE_BITS = 32 - PROBABILITY_BITS


def encode(symbols: NDArray[np.uint8], coding: Coding, *, threads: int = 1) -> CodedBlock:
    """Code symbols (rows, columns)."""
    grid = checks.check_encode(symbols, coding, threads=threads)
    starts = _starts(coding.frequencies)
    coded = []
    for part in grid.rectangles():
        columns = slice(part.group * coding.lanes, part.group_end * coding.lanes)
        values, ids = symbols[part.row : part.row_end, columns], coding.table_ids[columns]
        freq = coding.frequencies[ids, values].astype(np.uint64)
        if not freq.all():
            checks.raise_uncodable(symbols, coding)
        steps = (-1, coding.lanes)
        coded.append(_encode_steps(freq.reshape(steps), starts[ids, values].reshape(steps)))
    sizes = np.array([words.size for words in coded], dtype=np.uint32)
    padding = np.zeros(PADDING_WORDS, dtype=np.uint16)
    return CodedBlock(words=np.concatenate([*coded, padding]), sizes=sizes)


def decode(
    block: CodedBlock, coding: Coding, *, num_rows: int, threads: int = 1
) -> NDArray[np.uint8]:
    """The symbols (num_rows, columns) of a coded block, or BitstreamError."""
    grid = checks.check_decode(block, coding, num_rows=num_rows, threads=threads)
    symbols = np.empty((num_rows, coding.table_ids.size), dtype=np.uint8)
    bounds = np.concatenate([[0], np.cumsum(block.sizes, dtype=np.int64)])
    for index, (part, (first, end)) in enumerate(
        zip(grid.rectangles(), pairwise(bounds), strict=True)
    ):
        columns = slice(part.group * coding.lanes, part.group_end * coding.lanes)
        symbols[part.row : part.row_end, columns] = _decode_steps(
            block.words[first:end],
            coding.table_ids[columns].reshape(-1, coding.lanes),
            coding.frequencies,
            num_rows=part.row_end - part.row,
            substream=index,
        )
    return symbols


def _encode_steps(freq: NDArray[np.uint64], start: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """The words of one substream; freq and start are (steps, lanes)."""
    states = np.full(freq.shape[1], LOWEST_STATE, dtype=np.uint64)
    backwards = []
    for f, s in zip(freq[::-1], start[::-1], strict=True):
        full = states >= f << RENORMALISE_BITS
        backwards.append(states[full] & WORD_MASK)
        states[full] >>= WORD_BITS
        states = (states // f << PROBABILITY_BITS) + states % f + s
    backwards.append(np.stack([states & WORD_MASK, states >> WORD_BITS], axis=1).reshape(-1))
    return np.concatenate(backwards[::-1]).astype(np.uint16)


def _decode_steps(
    words: NDArray[np.uint16],
    group_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    *,
    num_rows: int,
    substream: int,
) -> NDArray[np.uint8]:
    """The symbols (num_rows, columns) of one substream; group_ids is (groups, lanes)."""
    num_groups, lanes = group_ids.shape
    states = _initial_states(words, lanes, substream)
    position = 2 * lanes
    used, group_tables = np.unique(group_ids, return_inverse=True)
    group_tables = group_tables.reshape(group_ids.shape)
    freq, start = frequencies[used].astype(np.uint64), _starts(frequencies[used])
    symbol_of = np.stack([np.repeat(np.arange(freq.shape[1]), f) for f in frequencies[used]])
    symbols = np.empty((num_rows, num_groups, lanes), dtype=np.uint8)
    for row in range(num_rows):
        for group, tables in enumerate(group_tables):
            slot = states & SLOT_MASK
            values = symbol_of[tables, slot]
            symbols[row, group] = values
            states = freq[tables, values] * (states >> PROBABILITY_BITS)
            states += slot - start[tables, values]
            empty = np.flatnonzero(states < LOWEST_STATE)
            taken = words[position : position + empty.size]
            if taken.size < empty.size:
                checks.raise_damaged(substream, checks.OUT_OF_WORDS)
            states[empty] = (states[empty] << WORD_BITS) | taken
            position += empty.size
    if position != words.size or (states != LOWEST_STATE).any():
        checks.raise_damaged(substream, checks.BAD_END)
    return symbols.reshape(num_rows, -1)


def _initial_states(words: NDArray[np.uint16], lanes: int, substream: int) -> NDArray[np.uint64]:
    if words.size < 2 * lanes:
        checks.raise_damaged(substream, checks.SHORT_STREAM)
    states = words[: 2 * lanes].astype("<u2").view("<u4").astype(np.uint64)
    if (states < LOWEST_STATE).any():
        checks.raise_damaged(substream, checks.LOW_STATE)
    return states


def _starts(frequencies: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Where each symbol's slots start: the sum of the frequencies before it."""
    ends = np.cumsum(frequencies, axis=1, dtype=np.uint64)
    return ends - frequencies
