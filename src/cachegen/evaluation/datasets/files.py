"""Reads the files of the data folder."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def rows(path: Path, *, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file with one on each line, plain or compressed (`.xz`).

    Raises:
        ValueError: a line is not an object with these keys, or there are no lines.
    """
    opened = lzma.open if path.suffix == ".xz" else open
    found = []
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                missing = [key for key in keys if key not in row]
            except (ValueError, TypeError) as exc:
                raise ValueError(f"{path}, line {number}: expected an object, got {exc!r}") from exc
            if missing:
                raise ValueError(f"{path}, line {number}: {', '.join(missing)} not found")
            found.append(row)
    if not found:
        raise ValueError(f"expected lines in {path}, it has none")
    return found
