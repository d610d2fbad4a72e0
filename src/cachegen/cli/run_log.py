"""The log file of a long run, with phases, findings and times."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cachegen.cli.output import Display
from cachegen.cli.pace import duration


class RunLog:
    """A log file; lines get the time and are appended.

    If the file cannot be written, its lines are lost and the run goes on; this is told once.

    Args:
        path: of the file; made with the first line.
        complain: told once, in words, that nothing more is written.
    """

    def __init__(self, path: Path, *, complain: Callable[[str], None]) -> None:
        self.path = path
        self._complain = complain
        self._works = True

    def write(self, text: str) -> None:
        """Add a text, every line of it with the local time in ISO 8601, to the second."""
        if not self._works:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        lines = "".join(f"{now}  {line}\n" for line in text.splitlines())
        try:
            with open(self.path, "a", encoding="utf-8", errors="replace") as file:
                file.write(lines)
        except OSError as exc:
            self._works = False
            self._complain(f"{self.path} is not written any more, the work goes on: {exc}")


class LoggedDisplay:
    """A display that also writes phases and findings to a log.

    Args:
        display: shows everything.
        log: gets a line where a phase begins, one where it ends, and every finding.
        clock: in seconds.
    """

    def __init__(
        self, display: Display, log: RunLog, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._display, self._log, self._clock = display, log, clock
        self._phase, self._began_s = "", clock()

    def begin(self, description: str) -> None:
        """See `Display`."""
        self._display.begin(description)
        self._enter(description)

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        """See `Display`."""
        self._display.update(description, completed=completed, total=total)
        if description is not None:
            self._enter(description)

    def tell(self, line: str) -> None:
        """See `Display`."""
        self._display.tell(line)
        self._log.write(line)

    def end(self, line: str) -> None:
        """The last phase is over, and this is what there is to say."""
        self._enter("")
        self.tell(line)

    def _enter(self, description: str) -> None:
        """Note where a phase begins and the one before it ends; what follows them is not told."""
        phase = description.partition(" (")[0]
        if phase == self._phase:
            return
        now_s = self._clock()
        if self._phase:
            self._log.write(f"{self._phase}: took {duration(now_s - self._began_s)}")
        if phase:
            self._log.write(f"{phase}: begins")
        self._phase, self._began_s = phase, now_s
