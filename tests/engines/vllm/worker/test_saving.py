from __future__ import annotations

import threading
import time

import pytest

from cachegen.bitstream.identity import PrefixKey, tokens_to_bytes
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.jobs import SaveJob
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.worker.saving import Saver, SaveSettings
from cachegen.engines.vllm.worker.spare_time import SpareTime
from cachegen.errors import StoreFull
from cachegen.store import open_store
from tests.toy import FINGERPRINT

TOKENS = list(range(512))
KEY = PrefixKey(FINGERPRINT)


def job(start: int, stop: int, *, request: str = "r", exact: bool = True) -> SaveJob:
    tokens = tokens_to_bytes(TOKENS[:stop])
    ids = (f"{request} {stop}".encode(),)
    return SaveJob(request, tokens, start, stop, (), RequestIdentity(), exact, ids)


class Held:
    """A store that lets a test hold puts up, or fail them."""

    def __init__(self) -> None:
        self.inner, self.go, self.error = open_store("memory:"), threading.Event(), None
        self.go.set()

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def put(self, key, data, *, parent=None):
        self.go.wait(20)
        if self.error is not None:
            raise self.error
        return self.inner.put(key, data, parent=parent)


@pytest.fixture
def held():
    store = Held()
    yield store
    store.go.set()


def saver(
    store,
    counters: Counters,
    *,
    max_bytes: int = 1 << 30,
    levels=("lossless",),
    spare_time: SpareTime | None = None,
) -> Saver:
    settings = SaveSettings(None, None, levels, 128)
    return Saver(
        store,
        settings,
        max_bytes=max_bytes,
        counters=counters,
        spare_time=spare_time or SpareTime(),
    )


def offer(saver: Saver, toy, *jobs: SaveJob, size_bytes: int = 100) -> list[int]:
    """Offer jobs; the starts of those that were copied."""
    copied = []
    for each in jobs:

        def copy(each: SaveJob = each):
            copied.append(each.start)
            return toy.kv(TOKENS).slice(each.start, each.stop)

        saver.offer(each, KEY, size_bytes, copy)
    return copied


def test_parts_of_a_prompt_become_one_context(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters)
    assert offer(saving, toy, job(0, 128), job(128, 384), job(384, 512)) == [0, 128, 384]
    saving.drain(20)
    result = toy.load(TOKENS, held, level="lossless")
    assert [chunk.stop for chunk in result.chunks] == [128, 256, 384, 512]
    toy.check(result, TOKENS, exact=True)
    counts = counters.take()
    assert counts["tokens_saved"] == 512 and saving.take_done() == (
        (b"r 128", b"r 384", b"r 512"),
        (),
    )
    assert 0 < counts["bytes_saved"] < counts["kv_bytes_saved"]


def test_what_does_not_fit_is_shed_with_all_behind_it(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters, max_bytes=250)
    held.go.clear()
    first, second = job(0, 128), job(128, 256)
    assert offer(saving, toy, first, second, job(256, 384)) == [0, 128]
    held.go.set()
    deadline_s = time.monotonic() + 20
    while counters.take().get("tokens_saved", 0) < 256:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
        if toy.load(TOKENS, held, level="lossless").num_tokens == 256:
            break
    assert offer(saving, toy, job(384, 512)) == []
    assert offer(saving, toy, job(0, 128, request="other")) == [0]
    saving.drain(20)
    assert saving.take_done() == ((b"r 128", b"r 256", b"other 128"), (b"r 384", b"r 512"))
    assert toy.load(TOKENS, held, level="lossless").num_tokens == 256
    saving.forget("r")


def test_nobody_waits_for_the_store(toy, held) -> None:
    held.go.clear()
    saving = saver(held, Counters())
    assert offer(saving, toy, job(0, 128), job(128, 256)) == [0, 128]
    assert not list(held.inner.list()), "it waits yet"
    saving.drain(0.05)


class Asked(SpareTime):
    """Spare time that a test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.waits = threading.Event(), 0

    def wait(self) -> None:
        self.waits += 1
        self.go.wait(20)


def test_nothing_is_encoded_or_stored_before_there_is_spare_time(toy, held) -> None:
    spare_time = Asked()
    saving = saver(held, Counters(), spare_time=spare_time)
    offer(saving, toy, job(0, 128), job(128, 512))
    assert not list(held.inner.list())
    spare_time.go.set()
    saving.drain(20)
    assert saving.take_done() == ((b"r 128", b"r 512"), ())
    assert spare_time.waits >= len(list(held.inner.list())), "after each object"


def test_a_failing_store_costs_the_save_only(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters)
    held.error = StoreFull("full")
    offer(saving, toy, job(0, 128))
    saving.drain(20)
    counts = counters.take()
    assert counts["save_failures:StoreFull"] == 1
    assert counts["saves_shed:failed"] == 1 and saving.take_done() == ((), (b"r 128",))


def test_a_part_whose_beginning_is_not_stored_is_left_out(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters)
    offer(saving, toy, job(128, 256))
    saving.drain(20)
    assert counters.take()["save_failures:ValueError"] == 1


def test_inexact_parts_have_no_exact_level_and_are_found_as_inexact_only(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters, levels=("high", "lossless"))
    offer(saving, toy, job(0, 128))
    offer(saving, toy, job(128, 256, exact=False))
    saving.drain(20)
    assert "save_failures:ValueError" not in counters.take()
    assert toy.load(TOKENS, held).num_tokens == 128
    result = toy.load(TOKENS, held, exact=False)
    assert [chunk.level for chunk in result.chunks] == ["high", "high"]


def test_a_copy_that_fails_leaves_room_for_others(toy, held) -> None:
    counters = Counters()
    saving = saver(held, counters, max_bytes=150)

    def fail():
        raise ValueError("no such block")

    with pytest.raises(ValueError, match="no such block"):
        saving.offer(job(0, 128), KEY, 100, fail)
    assert offer(saving, toy, job(0, 128, request="other")) == [0]
    saving.drain(20)
    assert counters.take()["tokens_saved"] == 128
