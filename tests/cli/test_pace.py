"""How long the rest will take."""

import pytest

from cachegen.cli.pace import Pace, duration


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rest_takes_as_long_for_each_as_what_is_done() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.update("moments", completed=0, total=48)
    assert pace.left() == "0 of 48"
    clock.now_s += 24
    assert not pace.update("moments", completed=12, total=48)
    assert pace.left() == "12 of 48, about 1 min 12 s left"
    assert not pace.update(completed=48)
    assert pace.left() == "48 of 48"


def test_what_an_earlier_run_did_took_no_time_of_this_one() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.update("moments", completed=40, total=48)
    clock.now_s += 10
    pace.update("moments", completed=41, total=48)
    assert pace.left() == "41 of 48, about 1 min 10 s left"


def test_a_new_phase_begins_anew_but_all_of_it_has_taken_as_long() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.update("moments", completed=3, total=4)
    clock.now_s += 100
    assert pace.update("solving")
    assert pace.left() == ""
    pace.update("levels", completed=0, total=5)
    clock.now_s += 6
    pace.update("levels", completed=1, total=5)
    assert pace.left() == "1 of 5, about 24 s left"
    assert pace.elapsed() == "1 min 46 s"


def test_without_a_total_only_what_is_done_is_said() -> None:
    pace = Pace(Clock())
    pace.update("loads", completed=7)
    assert pace.left() == "7 done"


@pytest.mark.parametrize(
    ("seconds", "text"),
    ((0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3600 + 7 * 60, "1 h 07 min")),
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
