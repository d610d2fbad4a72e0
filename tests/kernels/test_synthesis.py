"""Every kernel set makes the reference's planes, bit for bit, and refuses what does not fit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cachegen.kernels import PlaneLayout, PlaneRotation, _native, cpu, synthesis
from tests.kernels.planes import DTYPES, GAP, ROWS, Case, assert_same, make_case


def as_float32(bits: NDArray[np.uint16], dtype: str) -> NDArray[np.float32]:
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_a_case_worked_out_by_hand(kernel_set):
    case = Case(
        coefficients=np.array([[2, 3], [-1, 4]], dtype=np.int16),
        basis=np.array([[1, 0, 10, 5], [0, 1, -10, 5]], dtype=np.int16),
        scales=np.array([1, 2, 0.5, 1], dtype=np.float32),
        means=np.array([0, 1, 0, -100], dtype=np.float32),
        # Columns: a pair that turns by 90 degrees in the second row, and two heads of one value.
        planes=(PlaneLayout(1, 2, 4, 0), PlaneLayout(2, 1, 0)),
        rotations=(PlaneRotation(np.float32([[1], [0]]), np.float32([[0], [1]])),),
        num_tokens=2,
        tokens=np.arange(2),
        dtype="float32",
    )
    out = case.run(kernel_set, out=np.zeros(8, dtype=np.float32))
    # Rows before turning: (2, 7, -5, -75) and (-1, 9, -25, -85).
    assert out.tolist() == [-5, -25, -75, -85, 2, 7, -9, -1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", ROWS)
def test_every_number_of_rows(kernel_set, num_rows, dtype):
    for num_coefficients in (0, 1, 2, 7, 16):
        assert_same(kernel_set, make_case(num_rows, num_coefficients, dtype=dtype))


@pytest.mark.parametrize("interleaved", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_planes_of_every_width(kernel_set, dtype, interleaved):
    shapes = ((1, 1, None), (3, 5, 0), (2, 47, 1), (1, 2, 0), (5, 16, 2), (1, 33, None), (2, 64, 1))
    case = make_case(29, 9, shapes=shapes, pairs=(1, 19, 0), interleaved=interleaved, dtype=dtype)
    assert_same(kernel_set, case)


@pytest.mark.parametrize("interleaved", (False, True))
def test_every_number_of_turning_dimensions(kernel_set, interleaved):
    for pairs in (0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32):
        case = make_case(
            7, 3, shapes=((2, 64, 0),), pairs=(pairs,), interleaved=interleaved, dtype="bfloat16"
        )
        assert_same(kernel_set, case)


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_range_of_tokens_on_threads(kernel_set, dtype, threads):
    case = make_case(200, 21, dtype=dtype, tokens_before=3, tokens_after=8)
    assert_same(kernel_set, case, threads=threads)


def test_sums_wrap(kernel_set):
    for value in (-32768, 32767):
        case = make_case(13, 5, scale=1.0)
        case.coefficients[:] = -32768
        case.basis[:] = value
        rotated_by_nothing = replace(
            case, planes=tuple(replace(p, rotation=None) for p in case.planes)
        )
        assert_same(kernel_set, rotated_by_nothing)
        case.means[:] = 0
        case.scales[:] = 1
        wrapped = (5 * -32768 * value + 2**31) % 2**32 - 2**31
        out = rotated_by_nothing.run(kernel_set)
        assert set(out[~np.isnan(out)].tolist()) == {np.float32(wrapped)}


@pytest.mark.parametrize(
    ("dtype", "fraction_bits", "least_step"), (("bfloat16", 7, 0), ("float16", 10, 2**-24))
)
def test_rounding_is_to_the_nearest(kernel_set, dtype, fraction_bits, least_step):
    case = make_case(13, 0, dtype=dtype)
    case.means[:] *= np.exp2(np.linspace(-44, 13, case.means.size, dtype=np.float32))
    exact = replace(case, dtype="float32").run(kernel_set)
    written = ~np.isnan(exact)
    got = as_float32(case.run(kernel_set), dtype)[written]
    steps = np.exp2(np.floor(np.log2(np.abs(exact[written]))) - fraction_bits)
    assert (np.abs(got - exact[written]) <= np.maximum(steps, least_step) / 2).all()


def test_ties_go_to_even(kernel_set):
    case = make_case(1, 0, shapes=((1, 4, None),), pairs=())
    case.means[:] = [1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20]
    out = replace(case, dtype="bfloat16").run(kernel_set)[GAP : GAP + 4]
    assert as_float32(out, "bfloat16").tolist() == [1, 1 + 2**-6, -1, 1 + 2**-7]
    case.means[:] = [1 + 2**-11, 1 + 3 * 2**-11, 3 * 2**-25, 2**-25]
    out = replace(case, dtype="float16").run(kernel_set)[GAP : GAP + 4]
    assert as_float32(out, "float16").tolist() == [1, 1 + 2**-9, 2**-23, 0]


def test_float16_saturates(kernel_set):
    case = make_case(1, 0, shapes=((1, 6, None),), pairs=(), dtype="float16")
    case.means[:] = [65504, 65519, 65520, -1e9, np.inf, -np.inf]
    out = as_float32(case.run(kernel_set)[GAP : GAP + 6], "float16")
    assert out.tolist() == [65504, 65504, 65504, -65504, 65504, -65504]


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflows_are_the_same_everywhere(kernel_set, dtype):
    assert_same(kernel_set, make_case(13, 4, dtype=dtype, scale=1e30))


def test_strided_and_read_only_input(kernel_set):
    case = make_case(20, 6)
    turn = case.rotations[0]
    strided = replace(
        case,
        coefficients=np.asfortranarray(case.coefficients),
        basis=np.asfortranarray(case.basis),
        scales=np.repeat(case.scales, 2)[::2],
        means=np.repeat(case.means, 2)[::2],
        rotations=(PlaneRotation(np.asfortranarray(turn.cos), np.asfortranarray(turn.sin)),),
    )
    for array in (strided.coefficients, strided.basis, strided.scales, turn.cos):
        array.setflags(write=False)
    assert strided.run(kernel_set).tobytes() == case.run(synthesis).tobytes()


def test_nothing_to_do(kernel_set):
    for case in (make_case(0, 3), make_case(4, 3, shapes=()), make_case(0, 0, shapes=())):
        out = case.run(kernel_set)
        assert out.tobytes() == case.out().tobytes()


def long_array(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, array[:1]])


CASE = make_case(4, 3)
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"dtype": "float64"}, "dtype must be one of"),
    "wide coefficients": ({"coefficients": np.zeros((4, 4), np.int16)}, "4 columns, but basis 3"),
    "narrow basis": ({"basis": CASE.basis[:, 1:]}, "127 columns, but there are 128 scales"),
    "long scales": ({"scales": long_array(CASE.scales)}, "129 scales"),
    "long means": ({"means": long_array(CASE.means)}, "129 means"),
    "flat basis": ({"basis": CASE.basis[0]}, "basis must have 2 dimensions"),
    "missing plane": ({"planes": CASE.planes[1:]}, "planes have 64 columns, the basis 128"),
    "too many planes": ({"planes": CASE.planes * 2}, "planes have 256 columns"),
    "no heads": ({"planes": (PlaneLayout(0, 32, 0), *CASE.planes)}, "has no values"),
    "offset": ({"planes": (PlaneLayout(2, 32, -1), CASE.planes[1])}, "negative offset"),
    "overlap": ({"planes": (CASE.planes[0], CASE.planes[0])}, "planes overlap"),
    "no rotation": ({"rotations": ()}, "rotation 0 of 0"),
    "token before": ({"tokens": np.arange(-1, 3)}, "-1 to 2 do not fit into 4 tokens"),
    "token after": ({"tokens": np.arange(1, 5)}, "1 to 4 do not fit into 4 tokens"),
    "token twice": ({"tokens": np.array([0, 2, 3, 2])}, "two rows are the same token"),
    "few tokens": ({"tokens": np.arange(3)}, "3 tokens for 4 rows"),
    "many depths": ({"depths": np.arange(5)}, "5 depths for 4 rows"),
    "too deep": ({"depths": np.arange(1, 5)}, "1 to 4, but rows have 3 coefficients"),
    "negative depth": ({"depths": np.arange(-1, 3)}, "depths are -1 to 2"),
    "other rows": (
        {"rotations": (PlaneRotation(*np.ones((2, 5, 16), np.float32)),)},
        "each of 4 rows",
    ),
    "many pairs": (
        {"rotations": (PlaneRotation(*np.ones((2, 4, 17), np.float32)),)},
        "34 dimensions turn",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_together_raises(kernel_set, name):
    changes, message = MISFITS[name]
    out = CASE.out()
    with pytest.raises(ValueError, match=message):
        replace(CASE, **changes).run(kernel_set, out=out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("out", "error", "message"),
    (
        (CASE.out()[: -GAP - 1], ValueError, "the planes end at"),
        (CASE.out().astype(np.float64), TypeError, "out must be float32"),
        (CASE.out()[None], ValueError, "out must have 1 dimensions"),
        (np.repeat(CASE.out(), 2)[::2], ValueError, "writeable and contiguous"),
        (np.frombuffer(CASE.out().tobytes(), np.float32), ValueError, "writeable and contiguous"),
    ),
)
def test_unfit_output_raises(kernel_set, out, error, message):
    with pytest.raises(error, match=message):
        CASE.run(kernel_set, out=out)


def test_other_element_types_raise(kernel_set):
    for name in ("coefficients", "basis", "scales", "means"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            replace(CASE, **{name: getattr(CASE, name).astype(np.int64)}).run(kernel_set)
    for name in ("tokens", "depths"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            replace(CASE, **{name: np.arange(4, dtype=np.int32)}).run(kernel_set)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        CASE.run(kernel_set, threads=0)


def native_arguments(case: Case) -> dict[str, Any]:
    return {
        "coefficients": case.coefficients,
        "basis": case.basis,
        "scales": case.scales,
        "means": case.means,
        "out": case.out(),
        "planes": [(p.heads, p.dim, p.offset, p.rotation) for p in case.planes],
        "rotations": [(t.cos, t.sin, t.interleaved) for t in case.rotations],
        "num_tokens": case.num_tokens,
        "tokens": case.tokens,
        "depths": case.depths,
        "dtype": case.dtype,
        "threads": 1,
        "isa": "portable",
    }


HUGE = 2**63
HOSTILE: dict[str, dict[str, Any]] = {
    "wide coefficients": {"coefficients": np.zeros((4, 4), np.int16)},
    "narrow basis": {"basis": CASE.basis[:, 1:].copy()},
    "long scales": {"scales": long_array(CASE.scales)},
    "long means": {"means": long_array(CASE.means)},
    "short out": {"out": CASE.out()[: -GAP - 1]},
    "out of another type": {"dtype": "bfloat16"},
    "out that would be copied": {"out": np.repeat(CASE.out(), 2)[::2]},
    "read-only out": {"out": np.frombuffer(CASE.out().tobytes(), np.float32)},
    "no such dtype": {"dtype": "float64"},
    "no such set": {"isa": "abacus"},
    "no planes": {"planes": []},
    "empty heads": {"planes": [(2, 0, 0, None), (2, 64, 0, None)]},
    "no heads": {"planes": [(0, 2, 0, None), (2, 64, 0, None)]},
    "width that overflows": {"planes": [(HUGE, 4, 0, None), (2, 64, 0, None)]},
    "columns that overflow": {"planes": [(HUGE, 1, 0, None), (HUGE, 1, 0, None)]},
    "offset that overflows": {"planes": [(2, 64, 2**64 - 8, None)]},
    "negative offset": {"planes": [(2, 64, -8, None)]},
    "tokens that overflow": {"num_tokens": 2**60},
    "token after": {"tokens": np.arange(1, 5)},
    "negative token": {"tokens": np.arange(-1, 3)},
    "token that overflows": {"tokens": np.array([0, 1, 2, -(2**63)])},
    "fewer tokens than rows": {"num_tokens": 3},
    "few tokens": {"tokens": np.arange(3)},
    "many tokens": {"tokens": np.zeros(5, np.int64)},
    "few depths": {"depths": np.arange(3)},
    "many depths": {"depths": np.zeros(5, np.int64)},
    "too deep": {"depths": np.arange(1, 5)},
    "negative depth": {"depths": np.arange(-1, 3)},
    "few multipliers": {"multipliers": np.ones(3, np.int64)},
    "many multipliers": {"multipliers": np.ones(5, np.int64)},
    "wide tail": {"tail": 0},
    "negative tail": {"tail": -1},
    "no such rotation": {"planes": [(2, 64, 0, 1)]},
    "too many pairs": {"planes": [(8, 16, 0, 0)]},
    "rows of a rotation": {"rotations": [(*np.ones((2, 5, 16), np.float32), False)]},
    "cos of other shape": {
        "rotations": [(np.ones((4, 15), np.float32), np.ones((4, 16), np.float32), False)]
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_safe_without_the_python_checks(name):
    with pytest.raises((ValueError, TypeError)):
        _native.synthesise(**native_arguments(CASE) | HOSTILE[name])


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_case(isas, data):
    def integer(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    pairs = tuple(integer(0, 12) for _ in range(2))
    shapes = []
    for _ in range(integer(0, 4)):
        rotation = data.draw(st.sampled_from((None, 0, 1)))
        least = 1 if rotation is None else max(1, 2 * pairs[rotation])
        shapes.append((integer(1, 3), least + integer(0, 20), rotation))
    case = make_case(
        integer(0, 60),
        integer(0, 9),
        shapes=tuple(shapes),
        pairs=pairs,
        interleaved=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(DTYPES)),
        tokens_before=integer(0, 3),
        tokens_after=integer(0, 3),
        scale=data.draw(st.sampled_from((1e-9, 1e-4, 1e-16))),
        seed=integer(0, 1 << 30),
    )
    expected = case.run(synthesis)
    for isa in isas:
        got = case.run(cpu, isa=isa, threads=integer(1, 3))
        assert got.tobytes() == expected.tobytes()
