"""Rows of float16 whose entries are bytes times a power of two of their column."""

from __future__ import annotations

import numpy as np

from cachegen.errors import BitstreamError

# FORMAT.md, section 7.
_LARGEST = 127
# Bytes times powers of two within these are numbers of float16, exactly.
_LEAST_EXPONENT, _LARGEST_EXPONENT = -24, 9
# Arbitrary: 2^16 to 2^24 do. Values unpacked at once: in float32 all would take four times as much.
_STRIPE_VALUES = 1 << 20


def rounded(rows: np.ndarray) -> np.ndarray:
    """The nearest such rows, float16, of rows (n, columns) of any floats."""
    exponents = _exponents(rows)
    codes = np.rint(np.ldexp(rows.astype(np.float64), -exponents))
    return unpack(codes.clip(-_LARGEST, _LARGEST).astype(np.int8), exponents)


def pack(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes int8 (n, columns) and exponents int8 (columns,); None where rows are no such rows."""
    exponents = _exponents(rows)
    codes = np.ldexp(rows.astype(np.float64), -exponents)
    if not (np.isfinite(codes).all() and (np.rint(codes) == codes).all()):
        return None
    if np.abs(codes).max(initial=0.0) > _LARGEST:
        return None
    return codes.astype(np.int8), exponents


def unpack(codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """The inverse of `pack`: float16 (n, columns).

    Raises:
        BitstreamError: exponents beyond float16.
    """
    if len(exponents) and not (
        _LEAST_EXPONENT <= exponents.min() <= exponents.max() <= _LARGEST_EXPONENT
    ):
        raise BitstreamError(
            f"expected exponents of {_LEAST_EXPONENT} to {_LARGEST_EXPONENT}, got "
            f"{exponents.min()} to {exponents.max()}",
            field="exponents",
        )
    found: np.ndarray = np.empty(codes.shape, dtype=np.float16)
    stripe = max(1, _STRIPE_VALUES // max(codes.shape[1], 1))
    for first in range(0, len(codes), stripe):
        rows = codes[first : first + stripe].astype(np.float32)
        found[first : first + stripe] = np.ldexp(rows, exponents)
    return found


def _exponents(rows: np.ndarray) -> np.ndarray:
    """Of every column the least that bytes reach its largest entry with: int8 (columns,)."""
    largest = np.abs(rows).max(axis=0, initial=0.0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        needed = np.ceil(np.log2(np.maximum(largest / _LARGEST, 2.0**_LEAST_EXPONENT)))
    exponents: np.ndarray = np.nan_to_num(needed).clip(_LEAST_EXPONENT, _LARGEST_EXPONENT)
    return exponents.astype(np.int8)
