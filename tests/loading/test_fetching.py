"""The transfers of one load, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from queue import Empty, SimpleQueue
from types import SimpleNamespace

import pytest

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import StoreError, StoreTimeout
from cachegen.loading.downloads import Downloads
from cachegen.loading.fetching import Fetching
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
    """A store that gives what the test says, of objects of 100 bytes, and else is silent."""

    url = "silent:"

    def __init__(self) -> None:
        self.over = threading.Event()
        self.pieces: dict[int, SimpleQueue[bytes | Exception]] = defaultdict(SimpleQueue)

    def give(self, chunk: int, piece: bytes | Exception) -> None:
        self.pieces[chunk].put(piece)

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        chunk, missing = int(key.rsplit("/")[-1]), 100
        while missing and not self.over.is_set():
            with suppress(Empty):
                piece = self.pieces[chunk].get(timeout=0.05)
                if isinstance(piece, Exception):
                    raise piece
                missing -= len(piece)
                yield piece


class Load:
    """Transfers of four chunks, all asked for at 0."""

    def __init__(self, store: Silent) -> None:
        self.store = store
        chunks = [ChunkState(64 * i, 64 * i + 64, (OPTION,)) for i in range(4)]
        self.state, self.clock = LoadState(chunks, Costs(), 0), Clock()
        around = SimpleNamespace(
            store=store, link=LinkEstimate(), downloads=Downloads(), stall_s=1.0
        )
        self.posted, self.fetched, self.failed = SimpleQueue(), [], []
        self.fetching = Fetching(
            self.state,
            around,
            self.clock,
            post=self.posted.put,
            fetched=lambda *fetched: self.fetched.append(fetched),
            failed=lambda *failed: self.failed.append(failed),
        )
        for chunk in range(4):
            key = f"chunks/{id(self)}/{chunk}"
            stored = StoredObject("high", key, 100, sha256(bytes(100)).digest())
            self.fetching.start(chunk, OPTION, [stored])

    def at(self, seconds: float) -> Fetching:
        self.clock.at_s = self.state.now_s = seconds
        return self.fetching

    def do_posted(self, times: int = 1) -> None:
        """What the deciding thread would do next."""
        for _ in range(times):
            self.posted.get(timeout=10)()

    def stalls_at(self, seconds: float) -> bool:
        """Whether a transfer fails then."""
        self.at(seconds).end_stalled()
        return bool(self.failed)


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
    assert not load.stalls_at(0.9)
    assert load.stalls_at(1.1)
    ((chunk, error, began_s),) = load.failed
    assert chunk == first.chunk and isinstance(error, StoreTimeout) and began_s == 0.0
    assert first not in load.state.transfers


def test_who_becomes_the_first_has_its_time(load) -> None:
    load.at(0.9).end(load.state.transfers[0], "done")
    assert not load.stalls_at(1.8)
    assert load.stalls_at(2.0)


def test_bytes_break_the_silence(load) -> None:
    first = load.state.transfers[0]
    load.at(0.9)
    load.store.give(0, bytes(10))
    load.do_posted()
    assert first.received_bytes == 10
    assert not load.stalls_at(1.8)
    assert load.stalls_at(2.0)


def test_what_was_asked_for_after_a_transfer_is_abandoned_with_it(load) -> None:
    transfers = list(load.state.transfers)
    assert load.fetching.abandon(load.state.place_of(2)) == transfers[:1:-1]
    assert load.state.transfers == transfers[:2]
    assert [span.chunk for span in load.clock.spans] == [3, 2]
    with pytest.raises(ValueError, match="chunk 2 cannot be had"):
        load.state.place_of(2)


def test_bytes_of_an_abandoned_transfer_are_ignored(load) -> None:
    load.store.give(3, bytes(10))
    hear = load.posted.get(timeout=10)
    (last,) = load.fetching.abandon(3)
    hear()
    assert last.received_bytes == 0 and not load.fetched and not load.failed


def test_a_transfer_ends_with_its_last_byte(load) -> None:
    for piece in (bytes(60), bytes(40)):
        load.store.give(1, piece)
    load.do_posted(3)
    ((chunk, (stored,), (data,)),) = load.fetched
    assert chunk == 1 and stored.size_bytes == 100 and data == bytes(100)
    assert [transfer.chunk for transfer in load.state.transfers] == [0, 2, 3]
    (span,) = load.clock.spans
    assert (span.outcome, span.size_bytes) == ("done", 100)


def test_a_transfer_fails_with_the_first_of_its_objects(load) -> None:
    keys = [f"chunks/{id(load)}/{number}" for number in (5, 6)]
    objects = [StoredObject("high", key, 100, sha256(bytes(100)).digest()) for key in keys]
    load.state.chunks.append(ChunkState(256, 320, (OPTION,)))
    load.fetching.start(4, OPTION, objects)
    assert load.fetching.num_objects == 6
    load.store.give(6, bytes(100))
    load.do_posted(2)
    assert not load.fetched and load.state.transfers[-1].received_bytes == 100
    load.store.give(5, StoreError("reset"))
    load.do_posted()
    ((chunk, error, _),) = load.failed
    assert chunk == 4 and str(error) == "reset"
    assert load.clock.spans[-1].outcome == "StoreError"
