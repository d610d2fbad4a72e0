"""A basis whose tail is of 8 bits: every kernel set makes the same of it, whatever it holds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachegen.kernels import cpu, synthesis
from tests.kernels.planes import ROWS, Case, assert_same, make_case

EXTREMES = (-32768, -32767, -32640, -129, -128, -127, -1, 0, 1, 127, 128, 32639, 32640, 32767)


def with_tail(case: Case, tail: int, *, magnitude: int = 100, seed: int = 0) -> Case:
    """Its basis from `tail` on rounded to 8 bits, there coefficients up to a magnitude."""
    rng = np.random.default_rng(seed)
    basis, coefficients = case.basis.copy(), case.coefficients.copy()
    shifts = rng.integers(0, 9, basis.shape[1])
    basis[tail:] = rng.integers(-127, 128, basis[tail:].shape) << shifts
    small = rng.integers(-magnitude, magnitude + 1, coefficients[:, tail:].shape)
    coefficients[:, tail:] = np.clip(small, -32768, 32767)
    return replace(case, basis=basis, coefficients=coefficients, tail=tail)


def deep(case: Case, seed: int = 0) -> Case:
    """Depths and multipliers of any size."""
    rng = np.random.default_rng(seed)
    rows, depth = case.coefficients.shape
    return replace(
        case,
        depths=rng.integers(0, depth + 1, rows),
        multipliers=rng.integers(1, 64, rows),
    )


def test_multipliers_by_hand(kernel_set):
    case = replace(make_case(3, 2, shapes=((1, 1, None),), pairs=()), tokens=np.arange(3))
    case.coefficients[:] = [[1, 2], [3, -4], [-5, 6]]
    case.basis[:], case.scales[:], case.means[:] = [[10], [1]], 1, 0
    case = replace(case, multipliers=np.array([1, 63, -2]))
    assert case.run(kernel_set)[5:8].tolist() == [12, 63 * 26, 88]


@pytest.mark.parametrize("num_rows", ROWS)
def test_every_number_of_rows(kernel_set, num_rows):
    for tail in (0, 1, 3, 8, 12, 13, 99):
        case = with_tail(make_case(num_rows, 13), tail)
        assert_same(kernel_set, case)
        assert_same(kernel_set, deep(case))


@pytest.mark.parametrize("depth", (0, 1, 255, 256, 257, 258, 259, 260, 261, 300))
def test_depths_about_the_tail(kernel_set, depth):
    case = with_tail(make_case(30, 300, scale=1e-12), 256)
    assert_same(kernel_set, replace(case, depths=np.full(30, depth)), threads=2)


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("entry", (-127, 127))
def test_any_coefficient_wraps_as_it_should(kernel_set, value, entry):
    case = with_tail(make_case(25, 41), 2)
    case.coefficients[12:] = value
    case.basis[2:] = entry << 8
    assert_same(kernel_set, replace(case, multipliers=np.full(25, 63)))


def test_one_large_coefficient_among_small_ones(kernel_set):
    for place in (3, 4, 40):
        case = with_tail(make_case(40, 41), 3, magnitude=5)
        case.coefficients[20, place] = 32767
        assert_same(kernel_set, case)


def test_heads_whose_pairs_are_neighbours(kernel_set):
    case = make_case(30, 40, shapes=((3, 20, 0), (1, 9, None)), pairs=(7,), interleaved=True)
    assert_same(kernel_set, deep(with_tail(case, 11)))


@pytest.mark.parametrize("entries", ((128, 1), (-32768, 0), (127 * 256 + 1, 0), (3 * 127, 1)))
def test_a_tail_that_is_not_of_8_bits_raises(kernel_set, entries):
    case = with_tail(make_case(5, 9), 4)
    case.basis[4:, 3] = 0
    case.basis[7:9, 3] = entries
    with pytest.raises(ValueError, match="not of 8 bits"):
        case.run(kernel_set)
    assert_same(kernel_set, replace(case, depths=np.full(5, 7)))


def test_misfits_raise(kernel_set):
    case = make_case(4, 3)
    with pytest.raises(ValueError, match="5 multipliers for 4 rows"):
        replace(case, multipliers=np.ones(5, dtype=np.int64)).run(kernel_set)
    with pytest.raises(TypeError, match="multipliers must be"):
        replace(case, multipliers=np.ones(4, dtype=np.int32)).run(kernel_set)
    with pytest.raises(ValueError, match="tail must not be negative"):
        replace(case, tail=-1).run(kernel_set)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tail(isas, data):
    num_rows, depth = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 40))
    case = make_case(num_rows, depth, shapes=((2, 9, 0), (1, 33, None)), pairs=(3,), scale=1e-12)
    seed = data.draw(st.integers(0, 1 << 30))
    magnitude = data.draw(st.sampled_from((1, 30, 127, 129, 4000, 32768)))
    case = deep(with_tail(case, data.draw(st.integers(0, 42)), magnitude=magnitude, seed=seed))
    for _ in range(data.draw(st.integers(0, 3)) if case.coefficients.size else 0):
        row, column = data.draw(st.integers(0, num_rows - 1)), data.draw(st.integers(0, depth - 1))
        case.coefficients[row, column] = data.draw(st.sampled_from(EXTREMES))
    multipliers = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=num_rows, max_size=num_rows)
    if data.draw(st.booleans()):
        case = replace(case, multipliers=np.array(data.draw(multipliers), dtype=np.int64))
    expected = case.run(synthesis)
    for isa in isas:
        got = case.run(cpu, isa=isa, threads=data.draw(st.integers(1, 3)))
        assert got.tobytes() == expected.tobytes()
