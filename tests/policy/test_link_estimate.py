from __future__ import annotations

import pytest

from cachegen.policy.link_estimate import LinkEstimate


def test_a_link_remembers_silence_for_a_while() -> None:
    link = LinkEstimate()
    assert not link.was_silent(0.0)
    link.went_silent(0.0)
    assert link.was_silent(9.0) and not link.was_silent(11.0)
    link.went_silent(None)
    assert not link.was_silent(1.0)


def test_a_link_is_divided_among_those_who_use_it() -> None:
    link = LinkEstimate(prior_bytes_per_s=6e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(6e6)
    link.begin(0.0)
    assert link.share(0.0, own=1)[0] == pytest.approx(6e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(3e6)
    link.begin(0.0)
    assert link.share(0.0, own=2)[0] == pytest.approx(6e6)
    assert link.share(0.0, own=1)[0] == pytest.approx(3e6)
    assert link.share(0.0, own=0)[0] == pytest.approx(2e6)
    link.end(0.0, answered=False)
    link.end(0.0, answered=False)
    assert link.share(0.0, own=0)[0] == pytest.approx(6e6)


def test_a_link_of_which_nothing_is_known() -> None:
    link = LinkEstimate()
    assert link.share(0.0, own=0) == (None, None)
    assert link.known(0.0) is None


def test_a_link_learns_from_what_arrives() -> None:
    link = LinkEstimate()
    link.begin(0.0)
    for step in range(1, 101):
        link.arrived(10_000, step * 0.01, first=step == 1)
    assert link.known(1.0)[0] == pytest.approx(1e6, rel=0.1)
