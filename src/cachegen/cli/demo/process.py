"""The demo's reading process: a module that gets a job and prints one JSON object."""

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
    """Run a module in a new process and return the JSON object that it prints.

    Args:
        job: its input.
        path: of the file to pass the job in.
        module: name of the module.

    Raises:
        ValueError: the process failed; the message has its standard error.
    """
    path.write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", module, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the reading process failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
