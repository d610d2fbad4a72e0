import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.codec.tables import (
    cluster,
    histograms,
    pack_tables,
    table_frequencies,
    unpack_tables,
)
from cachegen.errors import BitstreamError


def gaussian_counts(spreads, num_rows=2000, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(128, spreads, (num_rows, len(spreads))).round().clip(1, 255)
    return histograms(values.astype(np.uint8))


def bits_of(counts, frequencies):
    """Ideal coded size of what was counted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = np.where(counts > 0, -counts * np.log2(frequencies / 4096), 0)
    return float(cost.sum())


def entropy(counts):
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return bits_of(counts, counts / total * 4096)


@pytest.mark.parametrize("rows", (0, 1, 255, 256, 257, 600))
def test_histograms(rows):
    symbols = np.random.default_rng(0).integers(0, 256, (rows, 5), dtype=np.uint8)
    expected = [np.bincount(column, minlength=256).tolist() for column in symbols.T]
    assert histograms(symbols).tolist() == expected


def test_clusters_hold_coefficients_of_like_spread():
    spreads = np.repeat([0.6, 3.0, 20.0], 12)
    counts = gaussian_counts(np.random.default_rng(1).permutation(spreads))
    sums, ids = cluster(counts, max_tables=3)
    order = np.random.default_rng(1).permutation(spreads)
    assert sums.shape == (3, 256)
    assert len({(spread, table) for spread, table in zip(order, ids, strict=True)}) == 3
    for table in range(3):
        assert (sums[table] == counts[ids == table].sum(axis=0)).all()


def test_few_tables_cost_little_more_than_one_each():
    counts = gaussian_counts(np.geomspace(0.5, 30, 200))
    sums, ids = cluster(counts, max_tables=24)
    frequencies = table_frequencies(sums, margin=0, escape=True)
    assert bits_of(counts, frequencies[ids]) < 1.03 * entropy(counts)


@pytest.mark.parametrize("max_tables", (1, 5, 64))
def test_every_table_is_used_and_every_coefficient_has_one(max_tables):
    counts = gaussian_counts(np.geomspace(0.5, 30, 10))
    counts[3] = 0
    sums, ids = cluster(counts, max_tables=max_tables)
    assert len(sums) <= max_tables
    assert ids.shape == (10,) and ids[3] == 0
    assert set(ids) == set(range(len(sums)))
    assert sums.sum() == counts.sum()


def test_nothing_counted_makes_one_table():
    sums, ids = cluster(np.zeros((4, 256), dtype=np.int64), max_tables=9)
    assert sums.shape == (1, 256) and ids.tolist() == [0] * 4
    for escape in (True, False):
        assert table_frequencies(sums, margin=2, escape=escape).sum() == 4096


@settings(max_examples=40, deadline=None)
@given(
    low=st.integers(1, 255),
    high=st.integers(1, 255),
    margin=st.integers(0, 5),
    escape=st.booleans(),
)
def test_supports_have_no_holes(low, high, margin, escape):
    counts = np.zeros((1, 256), dtype=np.int64)
    counts[0, [low, high]] = 7
    (row,) = table_frequencies(counts, margin=margin, escape=escape)
    low, high = min(low, high), max(low, high)
    first = max(low - margin, 1 if escape else 0)
    used = np.flatnonzero(row)
    inside = used[used > 0] if escape else used
    assert inside[0] <= first and inside[-1] >= min(high + margin, 255)
    assert (np.diff(inside) == 1).all()
    assert not escape or row[0] > 0
    assert row.sum() == 4096 and row.max() <= 4095


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num_tables=st.integers(1, 9), escape=st.booleans())
def test_tables_come_back(seed, num_tables, escape):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, num_tables)
    high = rng.integers(low, 256)
    counts = np.zeros((num_tables, 256), dtype=np.int64)
    for row, a, b in zip(counts, low, high, strict=True):
        row[a : b + 1] = rng.integers(0, 1000, b - a + 1)
    tables = table_frequencies(counts, margin=int(rng.integers(0, 4)), escape=escape)
    supports, frequencies = pack_tables(tables)
    assert (supports.dtype, frequencies.dtype) == (np.uint8, np.uint16)
    assert (unpack_tables(supports, frequencies) == tables).all()
    first, last = supports[0].tolist()
    support = tables[0, first : last + 1]
    assert frequencies[: 1 + len(support)].tolist() == [tables[0, 0], *support]


VALID = (np.array([[127, 129], [5, 5]], np.uint8), np.array([96, 1000, 2000, 1000, 1, 4095], "<u2"))


@pytest.mark.parametrize(
    ("supports", "frequencies", "message"),
    (
        (VALID[0], VALID[1][:-1], "expected 6 frequencies"),
        (VALID[0], np.append(VALID[1], VALID[1][:1]), "expected 6 frequencies"),
        (VALID[0][:0], VALID[1][:0], "first <= last"),
        ([[0, 2], [5, 5]], VALID[1], "first <= last"),
        ([[129, 127], [5, 5]], VALID[1], "first <= last"),
        (VALID[0], [96, 1000, 2000, 1001, 1, 4095], "sum to 4096"),
        (VALID[0], [96, 1000, 2000, 1000, 0, 4096], "above 4095"),
        (VALID[0], [1096, 1000, 0, 2000, 1, 4095], "no zeros"),
        (VALID[0], [65535, 1, 1, 65535, 1, 4095], "sum to 4096"),
    ),
)
def test_hostile_tables_are_refused(supports, frequencies, message):
    assert unpack_tables(*VALID).sum() == 2 * 4096
    with pytest.raises(BitstreamError, match=message):
        unpack_tables(np.array(supports, np.uint8), np.array(frequencies, np.uint16))
