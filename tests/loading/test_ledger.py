from __future__ import annotations

import pytest

from cachegen.errors import (
    BitstreamError,
    CacheGenError,
    KeyNotFound,
    ProfileMismatch,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TokensMismatch,
)
from cachegen.loading.ledger import Remedy, Retries

DAMAGE = BitstreamError("expected another digest", field="chunk")


class Clock(Retries):
    """Failures one after the other: each of what began after the last one."""

    now_s = 0.0

    def fails(self, chunk: int, level: str, error: CacheGenError) -> Remedy:
        began_s, self.now_s = self.now_s, self.now_s + 1.0
        return self.failed(chunk, level, error, began_s=began_s, now_s=self.now_s)


@pytest.mark.parametrize(
    ("error", "remedies"),
    [
        (KeyNotFound("gone"), [Remedy.OTHER_LEVEL]),
        (ProfileMismatch("other"), [Remedy.OTHER_LEVEL]),
        (TokensMismatch("other"), [Remedy.OTHER_LEVEL]),
        (DAMAGE, [Remedy.AGAIN, Remedy.OTHER_LEVEL]),
        (StoreError("503"), [Remedy.AGAIN, Remedy.AGAIN, Remedy.OTHER_LEVEL]),
        (StoreTimeout("silence"), [Remedy.AGAIN, Remedy.OTHER_LEVEL, Remedy.NO_STORE]),
        (StoreDenied("who?"), [Remedy.OTHER_LEVEL] * 2 + [Remedy.NO_STORE]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_an_object_that_keeps_failing_costs(error, remedies: list[Remedy]) -> None:
    retries = Clock()
    assert [retries.fails(0, "high", error) for _ in remedies] == remedies
    assert retries.of_chunk(0) == remedies.count(Remedy.AGAIN)
    assert retries.of_chunk(1) == 0


def test_a_store_that_fails_five_times_in_a_row_is_given_up() -> None:
    retries = Clock()
    found = [retries.fails(chunk, "high", StoreError("down")) for chunk in range(5)]
    assert found == [Remedy.AGAIN] * 4 + [Remedy.NO_STORE]


def test_failures_of_what_was_under_way_at_once_count_as_one() -> None:
    retries = Retries()
    for chunk in range(8):
        silence = StoreTimeout("silence")
        remedy = retries.failed(chunk, "high", silence, began_s=0.1 * chunk, now_s=1.0 + chunk)
        assert remedy is Remedy.AGAIN
    later = retries.failed(8, "high", StoreTimeout("silence"), began_s=1.5, now_s=10.0)
    last = retries.failed(9, "high", StoreTimeout("silence"), began_s=10.5, now_s=11.0)
    assert (later, last) == (Remedy.AGAIN, Remedy.NO_STORE)


def test_a_success_begins_the_count_again() -> None:
    retries = Clock()
    for chunk in range(20):
        assert retries.fails(chunk, "high", StoreError("down")) is Remedy.AGAIN
        retries.succeeded()


def test_waits_grow_and_differ() -> None:
    retries, waits = Clock(), []
    for _ in range(2):
        retries.fails(0, "high", StoreError("down"))
        waits.append({retries.wait_s(0, "high") for _ in range(50)})
    assert all(0.025 <= wait <= 0.075 for wait in waits[0])
    assert all(0.05 <= wait <= 0.15 for wait in waits[1])
    assert len(waits[0]) > 10


def test_who_is_due_first_comes_first() -> None:
    retries = Clock()
    for chunk in (3, 1, 2):
        retries.fails(chunk, "high", StoreError("down"))
    assert set(retries.pending) == {1, 2, 3}
    assert retries.take_due(1.0) is None
    first = retries.take_due(100.0)
    assert first is not None and (first.chunk, first.level) == (3, "high")
    assert first.reason == "again, after down"
    assert [retries.take_due(100.0).chunk for _ in range(2)] == [1, 2]
    assert not retries.pending
