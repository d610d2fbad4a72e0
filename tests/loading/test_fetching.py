"""The transfers of one load, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import StoreTimeout
from cachegen.loading.downloads import Arrived, Failed
from cachegen.loading.fetching import Fetching, FromLink
from cachegen.policy.controller import ChunkState, LoadState, Option
from cachegen.policy.costs import Costs
from cachegen.policy.link_estimate import LinkEstimate

OPTION = Option("high", 100, 0)


class Clock:
    """A journal whose time the test sets."""

    def __init__(self) -> None:
        self.at_s, self.spans = 0.0, []

    def now_s(self) -> float:
        return self.at_s


class Silent:
    """A store that gives nothing before the test is over."""

    url = "silent:"

    def __init__(self) -> None:
        self.over = threading.Event()

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        self.over.wait(10)
        yield b""


class Load:
    """Transfers of four chunks, all asked for at 0."""

    def __init__(self, store: Silent) -> None:
        chunks = [ChunkState(64 * i, 64 * i + 64, (OPTION,)) for i in range(4)]
        self.state, self.clock = LoadState(chunks, Costs(), 0), Clock()
        around = SimpleNamespace(store=store, link=LinkEstimate(), stall_s=1.0)
        self.fetching = Fetching(self.state, around, self.clock, lambda event: None)
        for chunk in range(4):
            key = f"chunks/{id(self)}/{chunk}"
            self.fetching.start(chunk, OPTION, [StoredObject("high", key, 100, bytes(32))])

    def at(self, seconds: float) -> Fetching:
        self.clock.at_s = self.state.now_s = seconds
        return self.fetching


@pytest.fixture
def load() -> Iterator[Load]:
    store = Silent()
    load = Load(store)
    yield load
    load.fetching.abandon()
    store.over.set()


def test_silence_is_not_broken_by_transfers_that_were_asked_for_later(load) -> None:
    first, *others = load.state.transfers
    for tenth, transfer in enumerate(others[:2], 1):
        load.at(0.4 * tenth).end(transfer, "done")
    assert load.at(0.9).stalled() is None
    stalled = load.at(1.1).stalled()
    assert stalled is not None and stalled.transfer is first
    assert isinstance(stalled.news, Failed) and isinstance(stalled.news.error, StoreTimeout)


def test_who_becomes_the_first_has_its_time(load) -> None:
    load.at(0.9).end(load.state.transfers[0], "done")
    assert load.at(1.8).stalled() is None
    assert load.at(2.0).stalled() is not None


def test_bytes_break_the_silence(load) -> None:
    first = load.state.transfers[0]
    load.at(0.9).take(FromLink(first, Arrived(10)))
    assert first.received_bytes == 10
    assert load.at(1.8).stalled() is None
    assert load.at(2.0).stalled() is not None


def test_what_was_asked_for_after_a_transfer_is_abandoned_with_it(load) -> None:
    transfers = list(load.state.transfers)
    assert load.fetching.abandon(load.state.place_of(2)) == transfers[:1:-1]
    assert load.state.transfers == transfers[:2]
    assert [span.chunk for span in load.clock.spans] == [3, 2]
    assert load.fetching.take(FromLink(transfers[3], Arrived(10))) is None
    with pytest.raises(ValueError, match="chunk 2 cannot be had"):
        load.state.place_of(2)
