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
def supported() -> list[str]: ...
