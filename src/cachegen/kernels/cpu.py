"""The native kernel set: the references, byte for byte, in C++ for the instruction sets of CPUs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachegen.kernels import _native, checks
from cachegen.kernels.checks import check_synthesise
from cachegen.kernels.layout import CodedBlock, Coding, Grid, Synthesis

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
    symbols: NDArray[np.uint8], coding: Coding, *, threads: int = 1, isa: str | None = None
) -> CodedBlock:
    """As reference.encode; `isa` forces an instruction set other than the fastest."""
    grid = checks.check_encode(symbols, coding, threads=threads)
    coded = _native.encode(
        np.ascontiguousarray(symbols),
        np.ascontiguousarray(coding.table_ids),
        np.ascontiguousarray(coding.frequencies),
        **_cut(coding, grid),
        threads=threads,
        isa=isa or supported_isas()[0],
    )
    if coded is None:
        checks.raise_uncodable(symbols, coding)
    words, sizes = coded
    return CodedBlock(words=words, sizes=sizes)


def decode(
    block: CodedBlock, coding: Coding, *, num_rows: int, threads: int = 1, isa: str | None = None
) -> NDArray[np.uint8]:
    """As reference.decode; `isa` forces an instruction set other than the fastest."""
    grid = checks.check_decode(block, coding, num_rows=num_rows, threads=threads)
    symbols = np.empty((num_rows, coding.table_ids.size), dtype=np.uint8)
    status, substream = _native.decode(
        np.ascontiguousarray(block.words),
        np.ascontiguousarray(block.sizes),
        np.ascontiguousarray(coding.table_ids),
        np.ascontiguousarray(coding.frequencies),
        symbols,
        **_cut(coding, grid),
        threads=threads,
        isa=isa or supported_isas()[0],
    )
    if status:
        checks.raise_damaged(substream, REASONS[status])
    return symbols


def synthesise(
    work: Synthesis, out: NDArray[Any], *, threads: int = 1, isa: str | None = None
) -> None:
    """As synthesis.synthesise; `isa` forces an instruction set other than the fastest."""
    check_synthesise(work, out, threads=threads)
    contiguous = np.ascontiguousarray
    _native.synthesise(
        contiguous(work.coefficients),
        contiguous(work.basis),
        contiguous(work.scales),
        contiguous(work.means),
        out,
        lookups=[
            (contiguous(one.table), contiguous(one.ids), contiguous(one.basis))
            for one in work.lookups
        ],
        planes=[(plane.heads, plane.dim, plane.offset, plane.rotation) for plane in work.planes],
        rotations=[
            (contiguous(turn.cos), contiguous(turn.sin), turn.interleaved)
            for turn in work.rotations
        ],
        num_tokens=work.num_tokens,
        tokens=contiguous(work.tokens),
        depths=None if work.depths is None else contiguous(work.depths),
        multipliers=None if work.multipliers is None else contiguous(work.multipliers),
        tail=work.tail,
        dtype=work.dtype,
        threads=threads,
        isa=isa or supported_isas()[0],
    )


def _cut(coding: Coding, grid: Grid) -> dict[str, int]:
    """The sizes that cut a block into substreams, none larger than the block."""
    return {
        "lanes": coding.lanes,
        "rows_per_substream": max(1, min(grid.rows_per_substream, grid.num_rows)),
        "groups_per_substream": max(1, min(grid.groups_per_substream, grid.num_groups)),
    }
