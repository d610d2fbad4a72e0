"""Progress without a terminal: a line when a phase begins, and every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from cachegen.cli.pace import Pace

# Arbitrary: 2 to 60 s do.
_EVERY_S = 5.0


@contextmanager
def progress_lines(stream: TextIO, *, every_s: float = _EVERY_S) -> Iterator[ProgressLines]:
    """Lines on a stream while the block runs, also when nothing is reported for long."""
    lines, ended = ProgressLines(stream), threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            lines.show()

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()


class ProgressLines:
    """A display that writes lines: what is done, what is left, when the run will end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._pace, self._lock = stream, Pace(), threading.Lock()

    def begin(self, description: str) -> None:
        """See `Display`."""
        self.update(description)

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        """See `Display`."""
        with self._lock:
            new = self._pace.update(description, completed=completed, total=total)
        if new:
            self.show()

    def tell(self, line: str) -> None:
        """See `Display`."""
        with self._lock:
            self._write(line)

    def show(self) -> None:
        """One line of where the work is."""
        with self._lock:
            parts = (self._pace.description, self._pace.left(), f"{self._pace.elapsed()} so far")
            self._write("; ".join(part for part in parts if part))

    def _write(self, line: str) -> None:
        """Write a line; if the stream is closed, the line is lost and the run goes on."""
        with suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)
