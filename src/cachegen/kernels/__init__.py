"""The entropy coder with its tables, and the synthesis of planes from decoded coefficients.

This package knows nothing of files, models or networks. `reference` and `synthesis` are the
definitions, `cpu` is the native set; `encode`, `decode` and `synthesise` run the fastest set that
works here.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import reference, synthesis
from cachegen.kernels.layout import (
    CodedBlock,
    Coding,
    Lookup,
    PlaneLayout,
    PlaneRotation,
    Synthesis,
)
from cachegen.kernels.tables import normalise

__all__ = [
    "CodedBlock",
    "Coding",
    "Lookup",
    "PlaneLayout",
    "PlaneRotation",
    "Synthesis",
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


def encode(symbols: NDArray[np.uint8], coding: Coding, *, threads: int = 1) -> CodedBlock:
    """Code symbols (rows, columns)."""
    return _active().encode(symbols, coding, threads=threads)


def decode(
    block: CodedBlock, coding: Coding, *, num_rows: int, threads: int = 1
) -> NDArray[np.uint8]:
    """The symbols (num_rows, columns) of a coded block, or BitstreamError.

    Callers bound num_rows and the columns: a few hostile words can claim any number of symbols.
    """
    return _active().decode(block, coding, num_rows=num_rows, threads=threads)


def synthesise(work: Synthesis, out: NDArray[Any], *, threads: int = 1) -> None:
    """Write planes into `out`, one array of float32 or of the bits of 16-bit values."""
    _active().synthesise(work, out, threads=threads)


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
