"""Frequencies made from counts are valid, nearly optimal and the same everywhere."""

import heapq
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cachegen.kernels import normalise

COUNTS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(0, 5), st.just(256)),
    elements=st.sampled_from((0, 0, 0, 1, 2, 7, 100, 12345, (1 << 32) - 1)),
)


def coded_bits(counts, frequencies):
    used = counts > 0
    return float(-(counts[used] * np.log2(frequencies[used] / 4096)).sum())


def optimal(counts):
    """Every unit to the symbol that it saves most: exact, because the savings only shrink."""
    frequencies = (counts > 0).astype(np.int64)
    heap = [(-counts[s] * np.log(2), s) for s in np.flatnonzero(counts)]
    heapq.heapify(heap)
    for _ in range(4096 - int(frequencies.sum())):
        _, s = heapq.heappop(heap)
        frequencies[s] += 1
        heapq.heappush(heap, (-counts[s] * np.log1p(1 / frequencies[s]), s))
    return frequencies


@settings(max_examples=100, deadline=None)
@given(counts=COUNTS)
def test_tables_are_valid(counts):
    frequencies = normalise(counts)
    assert frequencies.dtype == np.uint16
    assert frequencies.shape == counts.shape
    assert (frequencies.sum(axis=1) == 4096).all()
    assert frequencies.max(initial=0) <= 4095
    assert ((frequencies > 0) | (counts == 0)).all()
    assert (np.count_nonzero(frequencies, axis=1) >= 2).all()
    several = np.count_nonzero(counts, axis=1) > 1
    assert ((counts > 0) == (frequencies > 0))[several].all()


@pytest.mark.parametrize("spread", (0.4, 1.0, 4.0, 20.0))
@pytest.mark.parametrize("size", (10, 1000, 100_000))
def test_tables_are_nearly_optimal(spread, size):
    rng = np.random.default_rng(0)
    symbols = rng.laplace(128, spread, size).round().clip(0, 255).astype(np.int64)
    counts = np.bincount(symbols, minlength=256)
    bits = coded_bits(counts, normalise(counts[None])[0])
    assert bits <= 1.0001 * coded_bits(counts, optimal(counts))


def test_counts_that_are_frequencies_stay():
    counts = np.zeros((2, 256), dtype=np.uint16)
    counts[0, [3, 200]] = 4095, 1
    counts[1] = 16
    assert normalise(counts).tolist() == counts.tolist()


def test_one_symbol_lends_to_its_neighbour():
    counts = np.zeros((3, 256), dtype=np.int64)
    counts[[0, 1, 2], [0, 77, 255]] = 9
    frequencies = normalise(counts)
    assert frequencies[0, [0, 1]].tolist() == [4095, 1]
    assert frequencies[1, [77, 78]].tolist() == [4095, 1]
    assert frequencies[2, [254, 255]].tolist() == [1, 4095]


def test_no_counts_make_a_uniform_table():
    assert (normalise(np.zeros((1, 256), dtype=np.int64)) == 16).all()


def test_the_input_is_left_alone():
    counts = np.zeros((1, 256), dtype=np.int64)
    normalise(counts)
    assert not counts.any()


def test_two_thousand_tables_take_less_than_a_second():
    counts = np.random.default_rng(0).zipf(1.3, (2000, 256)).clip(0, 10**6)
    start = time.process_time()
    normalise(counts)
    assert time.process_time() - start < 1


def test_mistaken_counts():
    with pytest.raises(TypeError, match="integers"):
        normalise(np.ones((1, 256)))
    with pytest.raises(ValueError, match=r"\(tables, 256\)"):
        normalise(np.ones(256, dtype=np.int64))
    with pytest.raises(ValueError, match="counts must be 0 to"):
        normalise(np.full((1, 256), -1))
    with pytest.raises(ValueError, match="scale them down"):
        normalise(np.full((1, 256), 1 << 32))
