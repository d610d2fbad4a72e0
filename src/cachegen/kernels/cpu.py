"""The native kernel set: the references, byte for byte, in C++ for the instruction sets of CPUs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import _native, checks
from cachegen.kernels.layout import CodedBlock, Lookup, PlaneLayout, PlaneRotation
from cachegen.kernels.synthesis_checks import check_synthesise

# By the native statuses; 0 means success.
REASONS = {
    1: checks.SHORT_STREAM,
    2: checks.LOW_STATE,
    3: checks.OUT_OF_WORDS,
    4: checks.BAD_END,
}


def supported_isas() -> list[str]:
    """The instruction sets that this machine runs, fastest first."""
    names: list[str] = _native.supported()
    return names


def encode(
    symbols: NDArray[np.uint8],
    table_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    *,
    lanes: int,
    rows_per_substream: int,
    groups_per_substream: int,
    threads: int = 1,
    isa: str | None = None,
) -> CodedBlock:
    """As reference.encode; `isa` forces an instruction set other than the fastest."""
    grid = checks.check_encode(
        symbols,
        table_ids,
        frequencies,
        lanes=lanes,
        rows_per_substream=rows_per_substream,
        groups_per_substream=groups_per_substream,
        threads=threads,
    )
    coded = _native.encode(
        np.ascontiguousarray(symbols),
        np.ascontiguousarray(table_ids),
        np.ascontiguousarray(frequencies),
        lanes=lanes,
        rows_per_substream=max(1, min(rows_per_substream, grid.num_rows)),
        groups_per_substream=max(1, min(groups_per_substream, grid.num_groups)),
        threads=threads,
        isa=isa or supported_isas()[0],
    )
    if coded is None:
        checks.raise_uncodable(symbols, table_ids, frequencies)
    words, sizes = coded
    return CodedBlock(words=words, sizes=sizes)


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
    isa: str | None = None,
) -> NDArray[np.uint8]:
    """As reference.decode; `isa` forces an instruction set other than the fastest."""
    grid = checks.check_decode(
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
    symbols = np.empty((num_rows, table_ids.size), dtype=np.uint8)
    status, substream = _native.decode(
        np.ascontiguousarray(words),
        np.ascontiguousarray(sizes),
        np.ascontiguousarray(table_ids),
        np.ascontiguousarray(frequencies),
        symbols,
        lanes=lanes,
        rows_per_substream=max(1, min(rows_per_substream, grid.num_rows)),
        groups_per_substream=max(1, min(groups_per_substream, grid.num_groups)),
        threads=threads,
        isa=isa or supported_isas()[0],
    )
    if status:
        checks.raise_damaged(substream, REASONS[status])
    return symbols


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
    isa: str | None = None,
) -> None:
    """As synthesis.synthesise; `isa` forces an instruction set other than the fastest."""
    check_synthesise(
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
    _native.synthesise(
        np.ascontiguousarray(coefficients),
        np.ascontiguousarray(basis),
        np.ascontiguousarray(scales),
        np.ascontiguousarray(means),
        out,
        lookups=[
            (
                np.ascontiguousarray(one.table),
                np.ascontiguousarray(one.ids),
                np.ascontiguousarray(one.basis),
            )
            for one in lookups
        ],
        planes=[(plane.heads, plane.dim, plane.offset, plane.rotation) for plane in planes],
        rotations=[
            (np.ascontiguousarray(turn.cos), np.ascontiguousarray(turn.sin), turn.interleaved)
            for turn in rotations
        ],
        num_tokens=num_tokens,
        tokens=np.ascontiguousarray(tokens),
        depths=None if depths is None else np.ascontiguousarray(depths),
        multipliers=None if multipliers is None else np.ascontiguousarray(multipliers),
        tail=tail,
        dtype=dtype,
        threads=threads,
        isa=isa or supported_isas()[0],
    )
