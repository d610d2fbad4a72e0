"""Server processes that must not outlive their link."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

_PATIENCE_S = 5.0


class Processes:
    """Those that were started here."""

    def __init__(self) -> None:
        """None yet."""
        self._started: list[subprocess.Popen[Any]] = []

    def spawn(self, args: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start one; see `subprocess.Popen`."""
        process = subprocess.Popen(args, **popen)
        self._started.append(process)
        return process

    def end(self) -> None:
        """Ask those that still run to end, and make those end that do not listen."""
        running = [process for process in self._started if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            _await(process)


def _await(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
