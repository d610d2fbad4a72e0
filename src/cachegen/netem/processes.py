"""Server processes that must not outlive their link."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

# Arbitrary: 2 to 30 s do; then the process is killed.
_PATIENCE_S = 5.0


class Processes:
    """The server processes of a link."""

    def __init__(self) -> None:
        """Begin with no process."""
        self._started: list[subprocess.Popen[Any]] = []

    def spawn(self, args: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start a process; see `subprocess.Popen`."""
        process = subprocess.Popen(args, **popen)
        self._started.append(process)
        return process

    def end(self) -> None:
        """Terminate the processes that still run, and kill those that do not end in time."""
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
