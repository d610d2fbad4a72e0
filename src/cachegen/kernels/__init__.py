"""The entropy coder with its tables, and the synthesis of planes from decoded coefficients.

This package knows nothing of files, models or networks. `reference` and `synthesis` are the
definitions, `cpu` is the native set; `encode`, `decode` and `synthesise` run the fastest set that
works here.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import reference, synthesis
from cachegen.kernels.layout import CodedBlock, Lookup, PlaneLayout, PlaneRotation
from cachegen.kernels.tables import normalise

__all__ = [
    "CodedBlock",
    "Lookup",
    "PlaneLayout",
    "PlaneRotation",
    "active_set",
    "decode",
    "encode",
    "normalise",
    "synthesise",
]

CHOICE_VARIABLE = "CACHEGEN_KERNELS"
CHOICES = ("reference", "cpu", "cpu-portable", "cpu-avx2", "cpu-avx512")


@dataclass(frozen=True, slots=True)
class _KernelSet:
    name: str
    encode: Callable[..., CodedBlock]
    decode: Callable[..., NDArray[np.uint8]]
    synthesise: Callable[..., None]


def encode(
    symbols: NDArray[np.uint8],
    table_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    *,
    lanes: int,
    rows_per_substream: int,
    groups_per_substream: int,
    threads: int = 1,
) -> CodedBlock:
    """Code symbols (rows, columns); column c by the table frequencies[table_ids[c]]."""
    return _active().encode(
        symbols,
        table_ids,
        frequencies,
        lanes=lanes,
        rows_per_substream=rows_per_substream,
        groups_per_substream=groups_per_substream,
        threads=threads,
    )


def decode(
    words: NDArray[np.uint16],
    sizes: NDArray[np.uint32],
    table_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    *,
    num_rows: int,
    lanes: int,
    rows_per_substream: int,
    groups_per_substream: int,
    threads: int = 1,
) -> NDArray[np.uint8]:
    """The symbols (num_rows, columns) of a coded block, or BitstreamError.

    Callers bound num_rows and the columns: a few hostile words can claim any number of symbols.
    """
    return _active().decode(
        words,
        sizes,
        table_ids,
        frequencies,
        num_rows=num_rows,
        lanes=lanes,
        rows_per_substream=rows_per_substream,
        groups_per_substream=groups_per_substream,
        threads=threads,
    )


def synthesise(
    coefficients: NDArray[np.int16],
    basis: NDArray[np.int16],
    scales: NDArray[np.float32],
    means: NDArray[np.float32],
    out: NDArray[Any],
    *,
    lookups: Sequence[Lookup] = (),
    planes: Sequence[PlaneLayout],
    rotations: Sequence[PlaneRotation],
    num_tokens: int,
    tokens: NDArray[np.int64],
    depths: NDArray[np.int64] | None = None,
    multipliers: NDArray[np.int64] | None = None,
    tail: int | None = None,
    dtype: str,
    threads: int = 1,
) -> None:
    """Write (multipliers * (coefficients @ basis) + lookups) * scales + means into `out`.

    Coefficients are (rows, C), the basis (C, columns); sums wrap at 32 bits.

    The columns are those of the planes side by side. Row r is token tokens[r], no two the same, of
    planes (heads, num_tokens, dim), rotated where a plane says so, then rounded to `dtype`
    (float32, bfloat16 or float16); `out` is one array, of float32 or of the bits of 16-bit values.

    Of row r only the first depths[r] coefficients count, all without `depths`; the others are not
    read. Rows cost what the deepest of their neighbours does: keep rows of like depth together.
    Multipliers are (rows,), ones by default.

    The basis from row `tail` on is of 8 bits: a column's entries are multiples of a power of two,
    127 times that at most. Some sets are faster there where coefficients are of 8 bits too.
    """
    _active().synthesise(
        coefficients,
        basis,
        scales,
        means,
        out,
        lookups=lookups,
        planes=planes,
        rotations=rotations,
        num_tokens=num_tokens,
        tokens=tokens,
        depths=depths,
        multipliers=multipliers,
        tail=tail,
        dtype=dtype,
        threads=threads,
    )


def active_set() -> str:
    """The name of the kernel set in use: reference, cpu-portable, cpu-avx2 or cpu-avx512."""
    return _active().name


def _active() -> _KernelSet:
    return _select(os.environ.get(CHOICE_VARIABLE))


@cache
def _select(choice: str | None) -> _KernelSet:
    if choice is not None and choice not in CHOICES:
        raise ValueError(f"{CHOICE_VARIABLE} must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == "reference":
        return _reference_set()
    try:
        from cachegen.kernels import cpu
    except ImportError:
        if choice is not None:
            raise
        warnings.warn(
            "cachegen was built without its native kernels; it uses the slow reference ones."
            " Reinstall it with a C++ compiler present.",
            RuntimeWarning,
            stacklevel=2,
        )
        return _reference_set()
    isas = cpu.supported_isas()
    isa = isas[0] if choice in (None, "cpu") else str(choice).removeprefix("cpu-")
    if isa not in isas:
        raise ValueError(f"{CHOICE_VARIABLE}={choice}: this machine runs only {', '.join(isas)}")
    return _KernelSet(
        f"cpu-{isa}",
        partial(cpu.encode, isa=isa),
        partial(cpu.decode, isa=isa),
        partial(cpu.synthesise, isa=isa),
    )


def _reference_set() -> _KernelSet:
    return _KernelSet("reference", reference.encode, reference.decode, synthesis.synthesise)
