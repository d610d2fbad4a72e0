"""Every kernel set makes the reference's bytes and gives the symbols back."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.kernels import _native, cpu, reference
from cachegen.kernels.layout import PADDING_WORDS

# 0, 1, around the 16 lanes of a vector and the 3 streams in flight, and a prime.
ROWS = (0, 1, 3, 4, 5, 17)
GROUPS = (0, 1, 2, 7)
GRIDS = ((1, 1), (4, 2), (5, 3), (1000, 1000))


def assert_same(kernel_set, block, **extra):
    expected = block.encode(reference)
    coded = block.encode(kernel_set, **extra)
    assert coded.words.tobytes() == expected.words.tobytes()
    assert coded.sizes.tobytes() == expected.sizes.tobytes()
    decoded = block.decode(kernel_set, coded, **extra)
    assert decoded.dtype == np.uint8
    assert decoded.shape == block.symbols.shape
    assert decoded.tobytes() == block.symbols.tobytes()


@pytest.mark.parametrize("lanes", (8, 16, 32))
@pytest.mark.parametrize("grid", GRIDS)
def test_every_shape(kernel_set, make_block, lanes, grid):
    for rows in ROWS:
        for groups in GROUPS:
            block = make_block(
                rows, groups, lanes=lanes, rows_per_substream=grid[0], groups_per_substream=grid[1]
            )
            assert_same(kernel_set, block)


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_large_block(kernel_set, make_block, threads):
    block = make_block(769, 11, rows_per_substream=256, groups_per_substream=2, num_tables=16)
    assert_same(kernel_set, block, threads=threads)


def test_a_table_per_column(kernel_set, make_block):
    block = make_block(37, 12, lanes=32, num_tables=4000, groups_per_substream=2)
    assert np.unique(block.coding.table_ids).size > 256
    assert_same(kernel_set, block, threads=2)


def test_extreme_frequencies(kernel_set, make_block):
    block = make_block(60, 2)
    frequencies = np.zeros((3, 256), dtype=np.uint16)
    frequencies[0, [0, 255]] = 4095, 1
    frequencies[1, [0, 255]] = 1, 4095
    frequencies[2] = 16
    rng = np.random.default_rng(0)
    symbols = np.where(rng.random(block.symbols.shape) < 0.1, 255, 0).astype(np.uint8)
    assert_same(kernel_set, block.with_(symbols=symbols, frequencies=frequencies))


def test_strided_input(kernel_set, make_block):
    block = make_block(20, 4)
    strided = block.with_(
        symbols=np.asfortranarray(block.symbols),
        table_ids=np.repeat(block.coding.table_ids, 2)[::2],
        frequencies=np.asfortranarray(block.coding.frequencies),
    )
    coded = strided.encode(kernel_set)
    assert coded.words.tobytes() == block.encode(reference).words.tobytes()
    assert (strided.decode(kernel_set, coded) == block.symbols).all()


def test_read_only_input(kernel_set, make_block):
    block = make_block(20, 4)
    coded = block.encode(kernel_set)
    coding = block.coding
    for array in (block.symbols, coding.table_ids, coding.frequencies, coded.words, coded.sizes):
        array.setflags(write=False)
    assert block.encode(kernel_set).words.tobytes() == coded.words.tobytes()
    assert (block.decode(kernel_set, coded) == block.symbols).all()


def test_an_empty_block_is_padding(kernel_set, make_block):
    for rows, groups in ((0, 3), (3, 0), (0, 0)):
        coded = make_block(rows, groups).encode(kernel_set)
        assert coded.sizes.size == 0
        assert coded.words.tolist() == [0] * PADDING_WORDS


def test_decoders_write_their_symbols_and_nothing_else(make_block, isas):
    for lanes in (8, 16, 32):
        block = make_block(13, 5, lanes=lanes, rows_per_substream=5, groups_per_substream=2)
        coded = block.encode(reference)
        size = block.symbols.size
        for isa in isas:
            memory = np.full(size + 200, 0xFF, dtype=np.uint8)
            output = memory[100 : 100 + size].reshape(block.symbols.shape)
            status = _native.decode(
                coded.words,
                coded.sizes,
                symbols=output,
                **asdict(block.coding),
                threads=1,
                isa=isa,
            )
            assert status == (0, 0)
            assert (output == block.symbols).all()
            assert (memory[:100] == 0xFF).all() and (memory[100 + size :] == 0xFF).all()


def test_coded_size_is_near_the_entropy(make_block):
    block = make_block(1536, 4, num_tables=1, groups_per_substream=2)
    probabilities = block.coding.frequencies[0, block.symbols] / 4096
    entropy_bytes = -np.log2(probabilities).sum() / 8
    coded = block.encode(cpu)
    size_bytes = 2 * int(coded.sizes.sum())
    assert entropy_bytes < size_bytes < 1.008 * entropy_bytes


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_block(make_block, isas, data):
    def integer(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    block = make_block(
        integer(0, 24),
        integer(0, 6),
        lanes=data.draw(st.sampled_from((8, 16, 32))),
        rows_per_substream=integer(1, 30),
        groups_per_substream=integer(1, 7),
        num_tables=integer(1, 40),
        spread=data.draw(st.sampled_from((0.05, 0.5, 3.0, 60.0))),
        seed=integer(0, 1 << 30),
    )
    expected = block.encode(reference)
    assert (block.decode(reference, expected) == block.symbols).all()
    for isa in isas:
        threads = integer(1, 3)
        coded = block.encode(cpu, isa=isa, threads=threads)
        assert coded.words.tobytes() == expected.words.tobytes()
        assert coded.sizes.tobytes() == expected.sizes.tobytes()
        assert (block.decode(cpu, coded, isa=isa, threads=threads) == block.symbols).all()
