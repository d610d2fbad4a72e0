from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def encode(
    symbols: NDArray[np.uint8],
    table_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    *,
    lanes: int,
    rows_per_substream: int,
    groups_per_substream: int,
    threads: int,
    isa: str,
) -> tuple[NDArray[np.uint16], NDArray[np.uint32]] | None: ...
def decode(
    words: NDArray[np.uint16],
    sizes: NDArray[np.uint32],
    table_ids: NDArray[np.int32],
    frequencies: NDArray[np.uint16],
    symbols: NDArray[np.uint8],
    *,
    lanes: int,
    rows_per_substream: int,
    groups_per_substream: int,
    threads: int,
    isa: str,
) -> tuple[int, int]: ...
def synthesise(
    coefficients: NDArray[np.int16],
    basis: NDArray[np.int16],
    scales: NDArray[np.float32],
    means: NDArray[np.float32],
    out: NDArray[Any],
    *,
    lookups: Sequence[tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int16]]],
    planes: Sequence[tuple[int, int, int, int | None]],
    rotations: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], bool]],
    num_tokens: int,
    tokens: NDArray[np.int64],
    depths: NDArray[np.int64] | None,
    multipliers: NDArray[np.int64] | None = None,
    tail: int | None = None,
    dtype: str,
    threads: int,
    isa: str,
) -> None: ...
def supported() -> list[str]: ...
