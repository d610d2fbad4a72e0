"""Checks of the arguments of synthesis that every kernel set makes; mistakes are the caller's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels.checks import check_array
from cachegen.kernels.layout import Lookup, PlaneLayout, PlaneRotation, Synthesis

ELEMENT_TYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.uint16,
}
# Entries of a tail are bytes times a power of two, 2^8 at most: 127 * 2^8 is the most in int16.
MOST_SHIFT = 8
LARGEST_BYTE = 127


def check_synthesise(work: Synthesis, out: NDArray[Any], *, threads: int) -> None:
    """Refuse arguments that do not fit together.

    Raises:
        ValueError, TypeError: says which and why.
    """
    if work.dtype not in ELEMENT_TYPES:
        raise ValueError(f"dtype must be one of {', '.join(ELEMENT_TYPES)}, got {work.dtype!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    _check_matrices(work)
    _check_rows(work)
    if work.tail is not None and work.tail < 0:
        raise ValueError(f"tail must not be negative, got {work.tail}")
    num_rows, num_columns = len(work.coefficients), work.basis.shape[1]
    for index, lookup in enumerate(work.lookups):
        _check_lookup(lookup, f"lookups[{index}]", num_rows, num_columns)
    for index, turn in enumerate(work.rotations):
        _check_turn(turn, f"rotations[{index}]", num_rows)
    for index, plane in enumerate(work.planes):
        _check_plane(plane, f"planes[{index}]", work.rotations)
    width = sum(plane.width for plane in work.planes)
    if width != num_columns:
        raise ValueError(f"the planes have {width} columns, the basis {num_columns}")
    check_array(out, "out", dtype=ELEMENT_TYPES[work.dtype], ndim=1)
    _check_out(out, work.planes, work.num_tokens)


def check_tail(rows: NDArray[np.int16]) -> None:
    """Refuse rows of a basis that are not of 8 bits, see `find_shifts` of the native set.

    Raises:
        ValueError: a column has no power of two that leaves whole numbers of -127 to 127.
    """
    largest = np.abs(rows.astype(np.int32)).max(axis=0, initial=0)
    units = LARGEST_BYTE << np.arange(MOST_SHIFT + 1)
    shifts = np.searchsorted(units, largest)
    if (largest > units[-1]).any() or (rows & ((1 << shifts) - 1)).any():
        raise ValueError("the tail of the basis is not of 8 bits")


def _check_matrices(work: Synthesis) -> None:
    check_array(work.coefficients, "coefficients", dtype=np.int16, ndim=2)
    check_array(work.basis, "basis", dtype=np.int16, ndim=2)
    check_array(work.scales, "scales", dtype=np.float32, ndim=1)
    check_array(work.means, "means", dtype=np.float32, ndim=1)
    num_coefficients = work.coefficients.shape[1]
    num_rows, num_columns = work.basis.shape
    if num_coefficients != num_rows:
        raise ValueError(f"coefficients has {num_coefficients} columns, but basis {num_rows} rows")
    if not num_columns == work.scales.size == work.means.size:
        raise ValueError(
            f"basis has {num_columns} columns, but there are {work.scales.size} scales and"
            f" {work.means.size} means"
        )


def _check_rows(work: Synthesis) -> None:
    num_rows = len(work.coefficients)
    _check_tokens(work.tokens, num_rows, work.num_tokens)
    if work.depths is not None:
        _check_depths(work.depths, work.coefficients)
    if work.multipliers is not None:
        check_array(work.multipliers, "multipliers", dtype=np.int64, ndim=1)
        if len(work.multipliers) != num_rows:
            raise ValueError(f"there are {len(work.multipliers)} multipliers for {num_rows} rows")


def _check_tokens(tokens: NDArray[np.int64], num_rows: int, num_tokens: int) -> None:
    check_array(tokens, "tokens", dtype=np.int64, ndim=1)
    if len(tokens) != num_rows:
        raise ValueError(f"there are {len(tokens)} tokens for {num_rows} rows")
    if num_rows == 0:
        return
    in_order = np.sort(tokens)
    if in_order[0] < 0 or in_order[-1] >= num_tokens:
        raise ValueError(
            f"tokens {in_order[0]} to {in_order[-1]} do not fit into {num_tokens} tokens"
        )
    if (in_order[1:] == in_order[:-1]).any():
        raise ValueError("two rows are the same token")


def _check_depths(depths: NDArray[np.int64], coefficients: NDArray[np.int16]) -> None:
    check_array(depths, "depths", dtype=np.int64, ndim=1)
    num_rows, num_coefficients = coefficients.shape
    if len(depths) != num_rows:
        raise ValueError(f"there are {len(depths)} depths for {num_rows} rows")
    if num_rows and not 0 <= depths.min() <= depths.max() <= num_coefficients:
        raise ValueError(
            f"depths are {depths.min()} to {depths.max()}, but rows have {num_coefficients}"
            " coefficients"
        )


def _check_lookup(lookup: Lookup, name: str, num_rows: int, num_columns: int) -> None:
    check_array(lookup.table, f"{name}.table", dtype=np.int8, ndim=2)
    check_array(lookup.ids, f"{name}.ids", dtype=np.int64, ndim=1)
    check_array(lookup.basis, f"{name}.basis", dtype=np.int16, ndim=2)
    if len(lookup.ids) != num_rows:
        raise ValueError(f"{name} has {len(lookup.ids)} ids for {num_rows} rows")
    expected = (lookup.table.shape[1], num_columns)
    if lookup.basis.shape != expected:
        raise ValueError(f"{name}.basis must be {expected}, got {lookup.basis.shape}")


def _check_turn(turn: PlaneRotation, name: str, num_rows: int) -> None:
    check_array(turn.cos, f"{name}.cos", dtype=np.float32, ndim=2)
    check_array(turn.sin, f"{name}.sin", dtype=np.float32, ndim=2)
    if turn.cos.shape != turn.sin.shape or len(turn.cos) != num_rows:
        raise ValueError(
            f"{name} must have a cosine and a sine for each of {num_rows} rows and every pair,"
            f" got {turn.cos.shape} and {turn.sin.shape}"
        )


def _check_plane(plane: PlaneLayout, name: str, rotations: Sequence[PlaneRotation]) -> None:
    if min(plane.heads, plane.dim) < 1 or plane.offset < 0:
        raise ValueError(f"{name} has no values or a negative offset: {plane}")
    if plane.rotation is None:
        return
    if not 0 <= plane.rotation < len(rotations):
        raise ValueError(f"{name} names rotation {plane.rotation} of {len(rotations)}")
    num_turning = 2 * rotations[plane.rotation].cos.shape[1]
    if num_turning > plane.dim:
        raise ValueError(f"{name}: {num_turning} dimensions turn, a head has {plane.dim}")


def _check_out(out: NDArray[Any], planes: Sequence[PlaneLayout], num_tokens: int) -> None:
    if not out.flags.writeable or not out.flags.c_contiguous:
        raise ValueError("out must be writeable and contiguous")
    spans = sorted((plane.offset, plane.offset + num_tokens * plane.width) for plane in planes)
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise ValueError("planes overlap in out")
    if spans and spans[-1][1] > out.size:
        raise ValueError(f"out has {out.size} elements, the planes end at {spans[-1][1]}")
