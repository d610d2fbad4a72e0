"""Writes valid blocks in the input format of native_decode.cpp: python native_seeds.py FOLDER."""

import sys
from pathlib import Path

import numpy as np

from cachegen.kernels import Coding, normalise, reference

LANE_COUNTS = (8, 16, 32)


def seed(rng: np.random.Generator) -> bytes:
    lanes = int(rng.integers(3))
    rows, groups, rows_each, groups_each, tables = (
        int(n) for n in rng.integers(1, [24, 6, 20, 4, 5])
    )
    columns = groups * LANE_COUNTS[lanes]
    spread = rng.choice([0.2, 1.0, 5.0])
    symbols = rng.laplace(128, spread, (rows, columns)).round().clip(0, 255).astype(np.uint8)
    counts = np.bincount(symbols.reshape(-1), minlength=256) * rng.integers(1, 50, (tables, 256))
    frequencies = normalise(counts)
    table_ids = rng.integers(0, tables, columns, dtype=np.int32)
    coding = Coding(table_ids, frequencies, LANE_COUNTS[lanes], rows_each, groups_each)
    coded = reference.encode(symbols, coding)
    head = bytes([lanes, rows, groups, rows_each, groups_each, tables - 1, 1])
    arrays = (table_ids, frequencies, coded.sizes, coded.words[:-32])
    return head + b"".join(array.tobytes() for array in arrays)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(60):
        (folder / f"block-{number:02}").write_bytes(seed(rng))


if __name__ == "__main__":
    main()
