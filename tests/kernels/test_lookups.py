"""What tables of ids add to the sums: the same as if their rows were coefficients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cachegen.kernels import Lookup, PlaneLayout, Synthesis, _native, cpu, synthesis

HEADS, DIM = 3, 24
COLUMNS = HEADS * DIM


@dataclass(frozen=True, slots=True)
class Case:
    coefficients: NDArray[np.int16]
    basis: NDArray[np.int16]
    lookups: tuple[Lookup, ...]

    def run(self, kernel_set: Any, **extra: Any) -> NDArray[np.float32]:
        num_rows = len(self.coefficients)
        out = np.zeros(num_rows * COLUMNS, dtype=np.float32)
        work = Synthesis(
            self.coefficients,
            self.basis,
            np.full(COLUMNS, 2**-8, dtype=np.float32),
            np.arange(COLUMNS, dtype=np.float32),
            planes=(PlaneLayout(HEADS, DIM, 0),),
            rotations=(),
            num_tokens=num_rows,
            tokens=np.arange(num_rows),
            dtype="float32",
            lookups=self.lookups,
        )
        kernel_set.synthesise(work, out, **extra)
        return out

    def spelled_out(self) -> "Case":
        """The same with the tables' rows among the coefficients."""
        rows, basis = [self.coefficients], [self.basis]
        for one in self.lookups:
            padded = np.concatenate([one.table, np.zeros((1, one.table.shape[1]), dtype=np.int8)])
            known = (one.ids >= 0) & (one.ids < len(one.table))
            rows.append(padded[np.where(known, one.ids, -1)].astype(np.int16))
            basis.append(one.basis)
        return Case(np.concatenate(rows, axis=1), np.concatenate(basis), ())


def make_case(
    num_rows: int, depth: int = 5, *, tables: tuple[tuple[int, int], ...], seed: int = 0
) -> Case:
    """Tables of (entries, features), with ids some of which lie beyond them on either side."""
    rng = np.random.default_rng(seed)

    def int16(*shape: int) -> NDArray[np.int16]:
        return rng.integers(-32768, 32768, shape, dtype=np.int16)

    lookups = tuple(
        Lookup(
            rng.integers(-128, 128, (entries, features), dtype=np.int8),
            rng.integers(-2, entries + 2, num_rows),
            int16(features, COLUMNS),
        )
        for entries, features in tables
    )
    return Case(int16(num_rows, depth), int16(depth, COLUMNS), lookups)


@pytest.mark.parametrize("num_rows", (1, 12, 49, 113))
def test_lookups_are_coefficients_by_another_name(kernel_set, num_rows):
    for tables in (((7, 4),), ((300, 9), (1, 1)), ((50, 16), (50, 3), (0, 2), (9, 0))):
        case = make_case(num_rows, tables=tables)
        expected = case.spelled_out().run(synthesis)
        assert case.run(kernel_set).tobytes() == expected.tobytes()


def test_ids_beyond_the_table_add_nothing(kernel_set):
    case = make_case(4, tables=((3, 2),))
    ids = np.array([-1, 3, np.iinfo(np.int64).max, np.iinfo(np.int64).min])
    case = replace(case, lookups=(replace(case.lookups[0], ids=ids),))
    alone = replace(case, lookups=())
    assert case.run(kernel_set).tobytes() == alone.run(synthesis).tobytes()


def test_without_coefficients_only_lookups_count(kernel_set):
    case = make_case(30, depth=0, tables=((5, 3),))
    assert case.run(kernel_set).tobytes() == case.spelled_out().run(synthesis).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 60),
    depth=st.integers(0, 6),
    tables=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
    threads=st.integers(1, 3),
)
def test_all_sets_agree(isas, num_rows, depth, tables, threads):
    case = make_case(num_rows, depth, tables=tuple(tables))
    expected = case.run(synthesis)
    for isa in isas:
        assert case.run(cpu, isa=isa, threads=threads).tobytes() == expected.tobytes()


CASE = make_case(4, tables=((3, 2),))
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "ids": ({"ids": np.zeros(5, dtype=np.int64)}, "5 ids for 4 rows"),
    "features": ({"table": np.zeros((3, 1), dtype=np.int8)}, r"basis must be \(1, 72\)"),
    "columns": ({"basis": np.zeros((2, 71), dtype=np.int16)}, r"got \(2, 71\)"),
    "flat table": ({"table": np.zeros(2, dtype=np.int8)}, "table must have 2 dimensions"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_together_raises(kernel_set, name):
    changes, message = MISFITS[name]
    case = replace(CASE, lookups=(replace(CASE.lookups[0], **changes),))
    with pytest.raises(ValueError, match=message):
        case.run(kernel_set)


def test_other_element_types_raise(kernel_set):
    for name in ("table", "ids", "basis"):
        changed = {name: getattr(CASE.lookups[0], name).astype(np.float32)}
        case = replace(CASE, lookups=(replace(CASE.lookups[0], **changed),))
        with pytest.raises(TypeError, match=rf"lookups\[0\]\.{name} must be"):
            case.run(kernel_set)


@pytest.mark.parametrize("name", MISFITS)
def test_memory_is_safe_without_the_python_checks(name):
    lookup = replace(CASE.lookups[0], **MISFITS[name][0])
    with pytest.raises((ValueError, TypeError)):
        _native.synthesise(
            CASE.coefficients,
            CASE.basis,
            np.ones(COLUMNS, dtype=np.float32),
            np.ones(COLUMNS, dtype=np.float32),
            np.zeros(4 * COLUMNS, dtype=np.float32),
            lookups=[(lookup.table, lookup.ids, lookup.basis)],
            planes=[(HEADS, DIM, 0, None)],
            rotations=[],
            num_tokens=4,
            tokens=np.arange(4),
            depths=None,
            dtype="float32",
            threads=1,
            isa="portable",
        )
