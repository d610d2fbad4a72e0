"""How far a long piece of work is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """One report.

    Attributes:
        phase: what is being done, in a word or two.
        done: parts of the phase that are done.
        total: parts of the phase; None where nobody knows.
        message: something found out, said once; empty where there is nothing to say.
    """

    phase: str
    done: int = 0
    total: int | None = None
    message: str = ""

    def __str__(self) -> str:
        """One line for people."""
        counted = f" {self.done}" if self.done or self.total is not None else ""
        of = f" of {self.total}" if self.total is not None else ""
        return f"{self.phase}{counted}{of}" + (f": {self.message}" if self.message else "")


Progress = Callable[[Status], None]


def silent(status: Status) -> None:
    """Tell nobody."""
