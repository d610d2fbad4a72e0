"""Output of commands: a table for people or one JSON object for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cachegen.cli.pace import Pace
from cachegen.cli.progress_lines import progress_lines


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2))


def report(fields: dict[str, Any], *, as_json: bool) -> None:
    """Fields as one JSON object or as lines."""
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: bool = False
) -> None:
    """A table on standard output; columns after the first are numbers, or sentences."""
    table = Table(title=title, title_justify="left", show_lines=texts)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if texts or index == 0 else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_fields(fields: dict[str, Any]) -> None:
    """One line a field, names aligned."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {value}")


class Display(Protocol):
    """A display of a command's progress."""

    def begin(self, description: str) -> None:
        """Show from now on what is being done; called once, before the first update."""

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        """What is done now, how many parts of how many; what is None stays."""

    def tell(self, line: str) -> None:
        """Something to read, once."""


@contextmanager
def progress_bar(*, quiet: bool, counts: bool = False) -> Iterator[Display]:
    """Progress on standard error: a bar on a terminal, elsewhere lines; nothing when quiet.

    Args:
        quiet: show nothing.
        counts: beside the bar say what is left, as the lines do.
    """
    console = Console(stderr=True)
    if quiet or console.is_terminal:
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        columns += [TextColumn("{task.fields[left]}")] if counts else []
        with Progress(*columns, console=console, disable=quiet) as progress:
            yield _Bar(progress)
    else:
        with progress_lines(sys.stderr) as lines:
            yield lines


class _Bar:
    """A display that is a progress bar of `rich`."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._pace = progress, Pace()

    def begin(self, description: str) -> None:
        self._pace.update(description)
        self._task = self._progress.add_task(description, total=None, left="")

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        if self._pace.update(description, completed=completed, total=total):
            task = self._progress.tasks[self._task]
            task.completed, task.total = self._pace.completed, self._pace.total
        self._progress.update(
            self._task,
            description=description,
            completed=completed,
            total=total,
            left=self._pace.left(),
        )

    def tell(self, line: str) -> None:
        if not self._progress.disable:
            self._progress.console.print(line, markup=False, highlight=False)
