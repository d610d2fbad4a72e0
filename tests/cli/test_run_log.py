"""The log of long work: what it says, and that it never stands in the way."""

import os
import re
from pathlib import Path

import pytest

from cachegen.cli.run_log import LoggedDisplay, RunLog

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d  (.*)")


class Silent:
    """A display that shows nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, description: str) -> None: ...

    def update(self, description: str | None = None, **_: float | None) -> None: ...

    def tell(self, line: str) -> None:
        self.told.append(line)


def said(path: Path) -> list[str]:
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


def test_lines_have_the_time_and_follow_what_is_there(tmp_path: Path) -> None:
    path, complaints = tmp_path / "log", list[str]()
    RunLog(path, complain=complaints.append).write("first")
    RunLog(path, complain=complaints.append).write("second\nthird")
    assert said(path) == ["first", "second", "third"] and not complaints


def test_a_line_where_a_phase_begins_and_ends_and_every_finding(tmp_path: Path) -> None:
    times = iter([0.0, 0.0, 65.0, 70.0])
    display = Silent()
    logged = LoggedDisplay(
        display, RunLog(tmp_path / "log", complain=print), clock=lambda: next(times)
    )
    logged.begin("moments (then levels)")
    for done in range(3):
        logged.update("moments (then levels)", completed=done, total=3)
    logged.update("levels")
    logged.tell("level high: step 0.5")
    logged.end("finished")
    assert display.told == ["level high: step 0.5", "finished"]
    assert said(tmp_path / "log") == [
        "moments: begins",
        "moments: took 1 min 05 s",
        "levels: begins",
        "level high: step 0.5",
        "levels: took 5 s",
        "finished",
    ]


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    complaints = list[str]()
    log = RunLog(tmp_path, complain=complaints.append)  # a folder
    log.write("first")
    log.write("second")
    assert len(complaints) == 1 and "the work goes on" in complaints[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_is_said_once() -> None:
    complaints = list[str]()
    log = RunLog(Path("/dev/full"), complain=complaints.append)
    log.write("first")
    log.write("second")
    assert len(complaints) == 1 and "No space left" in complaints[0]
