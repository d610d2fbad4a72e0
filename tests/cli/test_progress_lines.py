"""Progress without a terminal."""

import io
import time

from cachegen.cli.progress_lines import ProgressLines, progress_lines


def test_a_line_for_every_phase_and_every_finding() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    lines.begin("learning")
    lines.update("moments", total=3)
    for done in (1, 2, 3):
        lines.update(completed=done, total=3)
    lines.tell("level high: step 0.5")
    lines.update("tables", completed=0)
    assert stream.getvalue().splitlines() == [
        "learning; 0 s so far",
        "moments; 0 of 3; 0 s so far",
        "level high: step 0.5",
        "tables; 0 s so far",
    ]


def test_a_line_every_few_seconds_also_while_nothing_is_reported() -> None:
    stream = io.StringIO()
    with progress_lines(stream, every_s=0.01) as lines:
        lines.begin("solving")
        deadline_s = time.monotonic() + 10
        while stream.getvalue().count("solving;") < 4 and time.monotonic() < deadline_s:
            time.sleep(0.01)
    assert stream.getvalue().count("solving; 0 s so far\n") >= 4
    ended = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == ended


def test_a_stream_that_is_gone_does_not_end_the_work() -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream)
    stream.close()
    lines.begin("moments")
    lines.tell("nobody reads this")
