"""The demo's other process: a module that is told a job and prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def read_in_new_process(job: DataclassInstance, path: Path, *, module: str) -> dict[str, Any]:
    """What the module found out.

    Args:
        job: what it is told.
        path: of the file to tell it by.
        module: to run.

    Raises:
        ValueError: it failed; the message is what it said.
    """
    path.write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", module, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the reading process failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
