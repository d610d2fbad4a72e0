"""Where progress goes: a bar on a terminal, lines elsewhere, nothing when quiet."""

import pytest
from rich.console import Console

from cachegen.cli import output
from cachegen.cli.output import progress_bar


def work(*, quiet: bool, counts: bool = False) -> None:
    with progress_bar(quiet=quiet, counts=counts) as display:
        display.begin("encode")
        display.update(completed=1, total=4)
        display.tell("[a] finding")
        display.update("decode")


def test_lines_on_standard_error_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    work(quiet=False)
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines() == ["encode; 0 s so far", "[a] finding", "decode; 0 s so far"]


def test_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    work(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        output, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=100)
    )
    work(quiet=False)
    found = capsys.readouterr()
    assert found.out == ""
    assert "decode" in found.err and "━" in found.err and "[a] finding" in found.err
    assert "so far" not in found.err


def test_a_bar_that_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        output, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=100)
    )
    with progress_bar(quiet=False, counts=True) as display:
        display.begin("moments")
        display.update(completed=3, total=4)
    assert "3 of 4" in capsys.readouterr().err
