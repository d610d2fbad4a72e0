"""How many questions it takes to find what is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from cachegen.contexts import lookup
from cachegen.errors import StoreError
from cachegen.store import Buffer, Store, open_store

TOKENS = list(range(300))


@dataclass
class Asked:
    """A store that notes lookups, lets them hang, and damages or delays manifests."""

    store: Store
    url: str = "memory:"
    lookups: int = 0
    damages: str = "nothing"
    reads_after: threading.Event | None = None
    answers_after: threading.Event | None = None
    had: threading.Event = field(default_factory=threading.Event)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        self.lookups += 1
        self.had.set()
        if self.answers_after is not None:
            assert self.answers_after.wait(10)
        return self.store.lookup(keys)

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        if key.startswith("contexts/") and self.reads_after is not None:
            assert self.reads_after.wait(10)
        if self.damages == "first" and key.startswith("contexts/"):
            self.damages = "nothing"
            raise StoreError("502")
        return self.store.get(key, range)


@pytest.fixture
def stored(toy) -> Asked:
    memory = open_store("memory:")
    toy.save(TOKENS, memory, levels=["raw"])
    return Asked(memory)


def test_a_context_as_it_was_saved_needs_no_lookup(toy, stored, monkeypatch) -> None:
    monkeypatch.setattr(lookup, "_HEAD_START_S", 10.0)
    assert toy.load(TOKENS, stored).num_tokens == 300
    assert stored.lookups == 0


def test_a_longer_one_is_looked_up(toy, stored) -> None:
    assert toy.load([*TOKENS, 7], stored).num_tokens == 256
    assert stored.lookups == 1


def test_a_slow_lookup_is_not_waited_for_where_the_manifest_is_there(toy, stored) -> None:
    stored.reads_after, stored.answers_after = stored.had, threading.Event()
    assert toy.load(TOKENS, stored).num_tokens == 300
    stored.answers_after.set()
    assert stored.lookups == 1


def test_a_slow_manifest_is_read_once(toy, stored, monkeypatch) -> None:
    """The lookup knows of it before it has come."""
    monkeypatch.setattr(lookup, "_HEAD_START_S", 0.0)
    looked_up = threading.Event()
    reads: list[str] = []

    class Slow(Asked):
        def lookup(self, keys: Sequence[str]) -> list[int | None]:
            threading.Timer(0.05, looked_up.set).start()
            return self.store.lookup(keys)

        def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
            if key.startswith("contexts/"):
                reads.append(key)
                assert looked_up.wait(10)
            return self.store.get(key, range)

    assert toy.load(TOKENS, Slow(stored.store)).num_tokens == 300
    assert len(reads) == 1


def test_a_manifest_that_failed_once_is_read_after_the_lookup(toy, stored) -> None:
    stored.damages = "first"
    assert toy.load(TOKENS, stored).num_tokens == 300
    assert stored.lookups == 1
