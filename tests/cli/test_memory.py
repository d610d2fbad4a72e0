"""Memory of the process."""

import pytest

from cachegen.cli.memory import gigabytes, peak_bytes, resident_bytes


def test_the_peak_is_seen() -> None:
    before = resident_bytes()
    taken = bytearray(b"x") * 100_000_000
    peak, now = peak_bytes(), resident_bytes()
    assert before and peak and now and peak >= 0.9 * now
    assert now - before > 0.8 * len(taken)


@pytest.mark.parametrize(
    ("num_bytes", "shown"), ((5.2e8, "0.52 GB"), (8.84e9, "8.8 GB"), (3.1e10, "31 GB"))
)
def test_sizes_for_people(num_bytes: float, shown: str) -> None:
    assert gigabytes(num_bytes) == shown
