"""Rows of bytes times powers of two."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cachegen.codec.transform.stored_rows import pack, rounded, unpack
from cachegen.errors import BitstreamError

SHAPES = st.tuples(st.integers(0, 5), st.integers(0, 7))
FLOAT16 = st.floats(-30_000, 30_000, width=16)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float16, SHAPES, elements=FLOAT16))
def test_rounded_rows_come_back_bit_for_bit(rows):
    near = rounded(rows)
    packed = pack(near)
    assert packed is not None and packed[0].dtype == packed[1].dtype == np.int8
    assert np.array_equal(unpack(*packed), near) and near.dtype == np.float16
    largest = np.abs(rows.astype(np.float64)).max(axis=0, initial=0.0)
    off = np.abs(near.astype(np.float64) - rows)
    assert (off <= np.maximum(largest / 127, 2.0**-25)).all()
    assert np.array_equal(rounded(near), near)


@settings(max_examples=100, deadline=None)
@given(arrays(np.int8, (4, 3), elements=st.integers(-127, 127)), st.integers(-24, 9))
def test_bytes_times_powers_of_two_are_kept(codes, exponent):
    rows = unpack(codes, np.full(3, exponent, dtype=np.int8))
    assert np.array_equal(rounded(rows), rows)
    assert np.array_equal(unpack(*pack(rows)), rows)


def test_other_rows_are_not_packed():
    fine = np.array([[1.0, 64.0], [0.5, 127.0]], dtype=np.float16)
    assert pack(fine) is not None
    for bad in (127.5, np.nan, np.inf):
        rows = fine.copy()
        rows[1, 1] = bad
        assert pack(rows) is None


@pytest.mark.parametrize("exponent", (-25, 10, 127))
def test_exponents_beyond_float16_are_refused(exponent):
    with pytest.raises(BitstreamError, match="exponents of -24 to 9"):
        unpack(np.ones((2, 2), np.int8), np.array([0, exponent], dtype=np.int8))
