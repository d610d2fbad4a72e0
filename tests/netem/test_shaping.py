"""Arguments of the kernel's token bucket."""

from __future__ import annotations

import pytest

from cachegen.netem.shaping import bucket


@pytest.mark.parametrize(
    ("mbit_s", "rate", "burst"),
    [
        (0.0, "100000bit", "3100"),
        (5.0, "5000000bit", "3100"),
        (200.0, "200000000bit", "3100"),
        (201.0, "201000000bit", "70000"),
        (1000.0, "1000000000bit", "250000"),
    ],
)
def test_bursts_are_short(mbit_s, rate, burst):
    arguments = bucket(mbit_s)
    assert arguments[:5] == ("tbf", "rate", rate, "burst", burst)
