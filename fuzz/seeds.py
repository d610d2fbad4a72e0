"""Seed inputs for the fuzz targets: the golden files, with the target's choice byte in front."""

from __future__ import annotations

import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
CHOICES = {".cgkv": b"\0", ".json": b"\1", ".profile": b"\2"}


def write_seeds(folder: Path) -> int:
    """Write a seed for each golden file; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    golden = [path for path in GOLDEN.iterdir() if path.suffix in CHOICES]
    for path in golden:
        (folder / path.name).write_bytes(CHOICES[path.suffix] + path.read_bytes())
    return len(golden)


if __name__ == "__main__":
    print(f"{write_seeds(Path(sys.argv[1]))} seeds")
