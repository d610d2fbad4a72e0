"""Rows that are any tokens, in any order, and of which only leading coefficients count."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.kernels import cpu, synthesis
from tests.kernels.planes import DTYPES, GAP, ROWS, Case, assert_same, make_case


def with_depths(case: Case, *depths: int) -> Case:
    """The depths over and over, as many as there are rows."""
    return replace(case, depths=np.resize(np.array(depths, dtype=np.int64), len(case.tokens)))


def cut(case: Case) -> Case:
    """The same with zeros in place of what depths leave out."""
    leading = np.arange(len(case.basis)) < case.depths[:, None]
    return replace(case, coefficients=np.where(leading, case.coefficients, np.int16(0)))


def scattered(case: Case, seed: int = 0) -> Case:
    """Its rows as others of its tokens, in no order."""
    tokens = np.random.default_rng(seed).permutation(case.num_tokens)
    return replace(case, tokens=tokens[: len(case.tokens)])


@pytest.mark.parametrize("interleaved", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_scattered_tokens(kernel_set, dtype, interleaved):
    for tokens_after in (0, 31):
        case = make_case(
            61, 9, interleaved=interleaved, dtype=dtype, tokens_before=1, tokens_after=tokens_after
        )
        assert_same(kernel_set, scattered(case), threads=2)


def test_rows_go_to_their_tokens_and_nowhere_else(kernel_set):
    in_order = make_case(30, 5, shapes=((3, 8, 0),), pairs=(4,), tokens_after=20)
    case = scattered(in_order)
    straight = in_order.run(kernel_set)[GAP:-GAP].reshape(3, 50, 8)
    planes = case.run(kernel_set)[GAP:-GAP].reshape(3, 50, 8)
    assert (planes[:, case.tokens] == straight[:, :30]).all()
    others = np.setdiff1d(np.arange(50), case.tokens)
    assert np.isnan(planes[:, others]).all()


@pytest.mark.parametrize("num_rows", ROWS)
def test_depths_of_every_number_of_rows(kernel_set, num_rows):
    case = make_case(num_rows, 21)
    for depths in ((0,), (1,), (20,), (21,), (7, 0, 21), tuple(range(22))):
        for order in (depths, np.sort(np.resize(depths, num_rows))[::-1].tolist() or depths):
            assert_same(kernel_set, with_depths(case, *order))


def test_coefficients_beyond_the_depth_count_as_zeros(kernel_set):
    case = with_depths(make_case(50, 13), 3, 0, 12, 13, 1)
    assert (
        case.run(kernel_set).tobytes() == replace(cut(case), depths=None).run(synthesis).tobytes()
    )


def test_full_depths_are_the_default(kernel_set):
    case = make_case(50, 13)
    assert with_depths(case, 13).run(kernel_set).tobytes() == case.run(kernel_set).tobytes()


def test_strided_tokens_and_depths(kernel_set):
    case = scattered(with_depths(make_case(20, 6), *range(7)))
    strided = replace(
        case, tokens=np.repeat(case.tokens, 2)[::2], depths=np.repeat(case.depths, 2)[::2]
    )
    for array in (strided.tokens, strided.depths):
        array.setflags(write=False)
    assert strided.run(kernel_set).tobytes() == case.run(synthesis).tobytes()


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_rows(isas, data):
    num_rows = data.draw(st.integers(0, 60))
    num_coefficients = data.draw(st.integers(0, 9))
    case = make_case(
        num_rows,
        num_coefficients,
        shapes=((2, 9, 0), (1, 33, None)),
        pairs=(3,),
        interleaved=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(DTYPES)),
        tokens_after=data.draw(st.integers(0, 20)),
        seed=data.draw(st.integers(0, 1 << 30)),
    )
    depths = st.lists(st.integers(0, num_coefficients), min_size=num_rows, max_size=num_rows)
    case = replace(
        scattered(case, seed=data.draw(st.integers(0, 99))),
        depths=np.array(data.draw(depths), dtype=np.int64),
    )
    expected = case.run(synthesis)
    for isa in isas:
        got = case.run(cpu, isa=isa, threads=data.draw(st.integers(1, 3)))
        assert got.tobytes() == expected.tobytes()
