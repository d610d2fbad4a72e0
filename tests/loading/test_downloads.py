"""Objects on their way: shared by those who want the same, abandoned when nobody does."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator

import pytest

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import BitstreamError, KeyNotFound, StoreError
from cachegen.loading.downloads import Downloads, Received
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
