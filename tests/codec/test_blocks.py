import numpy as np
import pytest

from cachegen.codec.blocks import (
    coded_columns,
    decode_block,
    encode_block,
    narrow,
)
from cachegen.codec.tables import table_frequencies
from cachegen.kernels.layout import MAX_TABLES_PER_SUBSTREAM

NO_ESCAPES = np.empty(0, dtype=np.int32)


def symbols_of(block, ids, frequencies):
    decoded = decode_block(block, ids, frequencies, threads=1)
    assert decoded.num_rows == block.num_rows
    return decoded.columns(0, len(block.active))


def make(rows, columns, *, spread=2.0, num_tables=3, seed=0):
    """Symbols, table ids and tables."""
    rng = np.random.default_rng(seed)
    symbols = rng.normal(128, spread, (rows, columns)).round().clip(1, 255).astype(np.uint8)
    counts = np.ones((num_tables, 256), dtype=np.int64) + rng.integers(0, 9, (num_tables, 256))
    ids = rng.integers(0, num_tables, columns)
    return symbols, ids, table_frequencies(counts, margin=0, escape=True)


@pytest.mark.parametrize("rows", (0, 1, 2, 63, 64, 65))
@pytest.mark.parametrize("columns", (0, 1, 7, 8, 9, 31, 32, 33, 100))
def test_there_and_back(rows, columns):
    symbols, ids, frequencies = make(rows, columns)
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    decoded = symbols_of(block, ids, frequencies)
    assert (decoded == symbols).all() and decoded.shape == symbols.shape
    assert (len(block.active), block.num_rows) == (columns, rows)


def test_constant_columns_are_not_coded():
    symbols, ids, frequencies = make(50, 40)
    symbols[:, 3], symbols[:, 17] = 9, 200
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    assert np.flatnonzero(~block.active).tolist() == [3, 17]
    assert block.constants.tolist() == [9, 200]
    assert (symbols_of(block, ids, frequencies) == symbols).all()


def test_columns_come_in_their_order():
    symbols, ids, frequencies = make(50, 40)
    symbols[:, 3], symbols[:, 17] = 9, 200
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    columns = coded_columns(block.active, ids, frequencies, lanes=block.lanes)
    assert sorted(columns.order.tolist()) == list(range(40))
    found = decode_block(block, ids, frequencies, threads=1)
    assert (found.coded[:, : found.num_active] == symbols[:, columns.order[:38]]).all()


@pytest.mark.parametrize("constant", (False, True))
def test_columns_are_had_a_few_at_a_time_and_symbols_counted(constant):
    symbols, ids, frequencies = make(50, 40)
    symbols[3, 5], symbols[:, 6] = 0, 0 if constant else symbols[:, 6]
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    found = decode_block(block, ids, frequencies, threads=1)
    for first, stop in ((0, 40), (3, 9), (39, 40), (7, 7)):
        assert (found.columns(first, stop) == symbols[:, first:stop]).all()
    assert found.count(0).tolist() == (symbols == 0).sum(axis=1).tolist()


def test_one_row_has_no_words():
    symbols, ids, frequencies = make(1, 40)
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    assert not block.active.any()
    assert block.words.tolist() == [0] * 32


def test_more_tables_than_a_substream_takes():
    columns = MAX_TABLES_PER_SUBSTREAM + 100
    symbols, _, frequencies = make(2, columns, num_tables=1)
    symbols[1] = symbols[0] + 1
    own = np.repeat(frequencies, columns, axis=0)
    ids = np.arange(columns)[::-1]
    block = encode_block(symbols, NO_ESCAPES, ids, own, threads=1)
    assert len(block.sizes) == 2
    assert (symbols_of(block, ids, own) == symbols).all()


@pytest.mark.parametrize(
    ("rows", "columns", "lanes"), ((100, 50, 8), (100, 100, 16), (200, 100, 32), (1500, 400, 32))
)
def test_states_cost_about_one_percent(rows, columns, lanes):
    symbols, ids, frequencies = make(rows, columns)
    block = encode_block(symbols, NO_ESCAPES, ids, frequencies, threads=1)
    states = 2 * block.lanes * len(block.sizes)
    assert block.lanes == lanes
    assert states < 0.013 * block.sizes.sum()


@pytest.mark.parametrize(
    ("integers", "dtype"),
    (
        ([], np.int8),
        ([-128, 127], np.int8),
        ([128], np.int16),
        ([-32768, 5], np.int16),
        ([-32769], np.int32),
    ),
)
def test_escapes_are_kept_as_narrow_as_they_go(integers, dtype):
    narrowed = narrow(np.array(integers, dtype=np.int32))
    assert narrowed.dtype == dtype
    assert narrowed.tolist() == integers
