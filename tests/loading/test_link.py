"""Objects on their way: shared by those who want the same; the transfers of one load."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from queue import Empty, SimpleQueue

import pytest

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import BitstreamError, KeyNotFound, StoreError, StoreTimeout
from cachegen.loading.link import Downloads, Fetching, Received
from cachegen.policy.controller import ChunkState, LoadState, Option
from cachegen.policy.costs import Costs
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import open_store

DATA = bytes(range(256)) * 4


class Dribble:
    """A store that gives a piece whenever it is told to."""

    url = "dribble:"

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self.pieces, self.gets = pieces, 0
        self.turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.closed = threading.Event()

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[bytes]:
        self.gets += 1
        try:
            for piece in self.pieces:
                self.turns.get(timeout=10)
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed.set()

    def go(self, times: int = 1) -> None:
        for _ in range(times):
            self.turns.put(None)


def pieces_of(data: bytes, count: int = 4) -> list[bytes | Exception]:
    size = len(data) // count
    return [data[start : start + size] for start in range(0, len(data), size)]


def stored(data: bytes = DATA) -> StoredObject:
    return StoredObject("raw", "chunks/one", len(data), hashlib.sha256(data).digest())


def test_a_thread_that_cannot_start_is_a_failure(monkeypatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    link, news = LinkEstimate(1e6), []
    leave = Downloads().start(Dribble([]), stored(), link=link, listener=news.append)
    (failed,) = news
    assert "can't start new thread" in str(failed.error)
    leave(False)
    assert link.share(0.0, own=0)[0] == 1e6


class Listener:
    def __init__(self) -> None:
        self.news: queue.SimpleQueue[Received] = queue.SimpleQueue()

    def __call__(self, news: Received) -> None:
        self.news.put(news)

    def next(self) -> Received:
        return self.news.get(timeout=10)

    def last(self) -> Received:
        while (news := self.next()).data is None and news.error is None:
            pass
        return news


def test_bytes_are_told_as_they_arrive() -> None:
    store, listener = Dribble(pieces_of(DATA)), Listener()
    Downloads().start(store, stored(), link=LinkEstimate(), listener=listener)
    for count in (256, 512, 768, 1024):
        store.go()
        news = listener.next()
        assert news.num_bytes == count and news.data is None
    news = listener.next()
    assert news.num_bytes == len(DATA) and news.data == DATA


def test_who_wants_the_same_object_shares_its_download() -> None:
    store, downloads, link = Dribble(pieces_of(DATA)), Downloads(), LinkEstimate()
    first, second = Listener(), Listener()
    downloads.start(store, stored(), link=link, listener=first)
    store.go()
    assert first.next().num_bytes == 256
    downloads.start(store, stored(), link=link, listener=second)
    assert second.next().num_bytes == 256
    store.go(3)
    assert first.last().data == second.last().data == DATA
    assert store.gets == 1


def test_one_of_two_may_leave() -> None:
    store, downloads, link = Dribble(pieces_of(DATA)), Downloads(), LinkEstimate()
    first, second = Listener(), Listener()
    leave = downloads.start(store, stored(), link=link, listener=first)
    downloads.start(store, stored(), link=link, listener=second)
    leave(False)
    store.go(4)
    assert second.last().data == DATA
    assert first.news.empty()


def test_a_download_that_nobody_wants_is_closed() -> None:
    store, downloads, link = Dribble(pieces_of(DATA)), Downloads(), LinkEstimate()
    listener, again = Listener(), Listener()
    leave = downloads.start(store, stored(), link=link, listener=listener)
    leave(False)
    leave(False)
    store.go()
    assert store.closed.wait(10)
    store.go(4)
    downloads.start(store, stored(), link=link, listener=again)
    assert again.last().data == DATA
    assert listener.news.empty()
    assert store.gets == 2


def test_an_object_is_fetched_anew_after_it_arrived() -> None:
    store, downloads, link = Dribble(pieces_of(DATA)), Downloads(), LinkEstimate()
    for count in (1, 2):
        listener = Listener()
        store.go(4)
        downloads.start(store, stored(), link=link, listener=listener)
        assert listener.last().data == DATA
        assert store.gets == count


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (pieces_of(DATA[:-1], 1), BitstreamError),
        (pieces_of(DATA + b"\0", 1), BitstreamError),
        (pieces_of(bytes(len(DATA))), BitstreamError),
        ([DATA[:100], StoreError("reset")], StoreError),
        ([OSError("a store's own mistake")], StoreError),
    ],
    ids=["short", "long", "other", "reset", "foreign"],
)
def test_what_is_not_the_object_fails(pieces, error: type[Exception]) -> None:
    store, listener = Dribble(pieces), Listener()
    store.go(len(pieces))
    Downloads().start(store, stored(), link=LinkEstimate(), listener=listener)
    news = listener.last()
    assert isinstance(news.error, error) and news.data is None


def test_a_missing_object() -> None:
    listener = Listener()
    Downloads().start(open_store("memory:"), stored(), link=LinkEstimate(), listener=listener)
    news = listener.last()
    assert isinstance(news.error, KeyNotFound)


def test_who_leaves_a_download_that_hangs_gets_a_new_one() -> None:
    store, downloads, link = Dribble(pieces_of(DATA)), Downloads(), LinkEstimate()
    first, second = Listener(), Listener()
    leave = downloads.start(store, stored(), link=link, listener=first)
    downloads.start(store, stored(), link=link, listener=second)
    leave(True)
    downloads.start(store, stored(), link=link, listener=first)
    store.go(8)
    assert first.last().data == second.last().data == DATA
    assert store.gets == 2


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
        self.posted, self.fetched, self.failed = SimpleQueue(), [], []
        self.fetching = Fetching(
            self.state,
            store,
            Downloads(),
            LinkEstimate(),
            self.clock,
            stall_s=1.0,
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

    def do_posted_until(self, is_done: Callable[[], object]) -> None:
        """The same until something has come of it; news that were not heard yet are one."""
        while not is_done():
            self.do_posted()

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
    load.do_posted_until(lambda: load.fetched)
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
    load.do_posted_until(lambda: load.state.transfers[-1].received_bytes == 100)
    assert not load.fetched and load.state.transfers[-1].received_bytes == 100
    load.store.give(5, StoreError("reset"))
    load.do_posted_until(lambda: load.failed)
    ((chunk, error, _),) = load.failed
    assert chunk == 4 and str(error) == "reset"
    assert load.clock.spans[-1].outcome == "StoreError"
