from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

from cachegen.bitstream.identity import PrefixKey, tokens_to_bytes
from cachegen.engines.vllm.config import read_config
from cachegen.engines.vllm.identity.request import RequestIdentity
from cachegen.engines.vllm.jobs import LoadJob
from cachegen.engines.vllm.metrics.counters import Counters
from cachegen.engines.vllm.worker.loading import Ended, Loader
from cachegen.engines.vllm.worker.pages import Pages
from cachegen.policy.costs import PrefillCost
from cachegen.store import open_store
from tests.engines.vllm.paging import SIZE, toy_pages
from tests.toy import FINGERPRINT

TOKENS = list(range(512))
KEY = PrefixKey(FINGERPRINT)
BLOCKS = (tuple(range(1, 33)),)


def job(start: int = 0, stop: int = 512, *, request: str = "r") -> LoadJob:
    looked_up = TOKENS[: -(-stop // 128) * 128]
    return LoadJob(request, tokens_to_bytes(looked_up), start, stop, BLOCKS, RequestIdentity())


class Slow:
    """A store whose objects, manifests aside, come when a test lets them."""

    def __init__(self, inner) -> None:
        self.inner, self.go = inner, threading.Event()

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def get(self, key, range=None):
        if not key.startswith("contexts"):
            self.go.wait(20)
        yield from self.inner.get(key, range)


def loader(store, pages, counters, *, prefill: PrefillCost | None = None, **extra) -> Loader:
    return Loader(
        store,
        pages,
        read_config({"store": "memory:", "level": "lossless", **extra}),
        profile=None,
        has_windows=False,
        prefill=lambda: prefill,
        device=torch.device("cpu"),
        counters=counters,
        achieved=lambda *_: None,
        loaded=lambda: None,
    )


def ended(loading: Loader, num: int = 1) -> list[Ended]:
    found: list[Ended] = []
    deadline_s = time.monotonic() + 20
    while len(found) < num:
        assert time.monotonic() < deadline_s, "the load does not end"
        found += loading.take_ended(wait_s=0.1)
    return found


@pytest.fixture
def manifest(toy, stored):
    return toy.save(TOKENS, stored, levels=["lossless"])


@pytest.fixture
def stored(toy):
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["lossless"])
    return store


def equal_tokens(pages, toy, start: int, stop: int) -> bool:
    read, truth = pages.read(BLOCKS, start=start, stop=stop), toy.kv(TOKENS).slice(start, stop)
    return all(map(torch.equal, read.planes(), truth.planes()))


@pytest.mark.parametrize(("start", "stop"), [(0, 512), (128, 512), (144, 496), (256, 384)])
def test_exactly_the_wanted_blocks_are_filled(toy, stored, start: int, stop: int) -> None:
    pages, counters = toy_pages(), Counters()
    loading = loader(stored, pages, counters)
    loading.start(job(start, stop), KEY)
    (load,) = ended(loading)
    assert load.is_whole and (load.request_id, load.stop) == ("r", stop)
    assert not load.failed_blocks(SIZE) and not loading.num_under_way
    assert equal_tokens(pages, toy, start, stop)
    for first, last in ((0, start), (stop, 512)):
        if first < last:
            untouched = pages.read(BLOCKS, start=first, stop=last)
            assert all((plane == 7).all() for plane in untouched.planes())
    counts = counters.take()
    assert counts["tokens_loaded"] == stop - start
    needed = [c for c in range(4) if 128 * c < stop and 128 * (c + 1) > start]
    assert counts["chunks_loaded:lossless"] == len(needed)


def test_a_lost_chunk_ends_what_is_there(toy, stored, manifest) -> None:
    for lost in manifest.chunks[1].objects:
        stored.delete(lost.key)
    pages, counters = toy_pages(), Counters()
    loading = loader(stored, pages, counters)
    loading.start(job(), KEY)
    (load,) = ended(loading)
    assert load.stop == 128 and not load.was_ended
    assert load.failed_blocks(SIZE) == set(range(9, 33))
    assert equal_tokens(pages, toy, 0, 128)
    assert counters.take()["load_failures:KeyNotFound"] >= 1


def test_nothing_stored_fails_every_block(toy) -> None:
    loading = loader(open_store("memory:"), toy_pages(), Counters())
    loading.start(job(), KEY)
    (load,) = ended(loading)
    assert load.stop == 0 and load.failed_blocks(SIZE) == set(range(1, 33))


def test_a_dropped_load_ends_and_writes_no_more(toy, stored) -> None:
    slow, pages, counters = Slow(stored), toy_pages(), Counters()
    loading = loader(slow, pages, counters)
    loading.start(job(), KEY)
    time.sleep(0.2)
    loading.drop("r")
    (load,) = ended(loading)
    assert load.stop == 0 and load.was_ended
    slow.go.set()
    time.sleep(0.3)
    assert all((plane == 7).all() for plane in pages.read(BLOCKS, start=0, stop=512).planes())
    assert counters.take()["load_failures:aborted"] == 1


def test_a_load_that_takes_longer_than_computing_is_given_up(toy, stored) -> None:
    slow, counters = Slow(stored), Counters()
    loading = loader(slow, toy_pages(), counters, prefill=PrefillCost(0.0, 0.0005))
    loading.start(job(), KEY)
    (load,) = ended(loading)
    slow.go.set()
    assert load.was_ended and not load.is_whole
    assert counters.take()["load_failures:too slow"] == 1


def test_a_trial_is_ended_once_it_costs_more_than_a_little(toy, stored) -> None:
    slow, counters = Slow(stored), Counters()
    loading = loader(slow, toy_pages(), counters, prefill=PrefillCost(0.0, 0.0005))
    loading.start(replace(job(), is_trial=True), KEY)
    (load,) = ended(loading)
    slow.go.set()
    assert load.was_ended and not load.is_whole
    assert counters.take()["load_failures:trial"] == 1


def test_a_trial_that_pays_brings_everything(toy, stored) -> None:
    pages, counters = toy_pages(), Counters()
    loading = loader(stored, pages, counters, prefill=PrefillCost(0.0, 1.0))
    loading.start(replace(job(), is_trial=True), KEY)
    (load,) = ended(loading)
    assert load.is_whole and equal_tokens(pages, toy, 0, 512)


def test_what_loads_achieved_is_told_but_of_those_that_were_dropped(toy, stored) -> None:
    slow, told = Slow(stored), []
    loading = loader(slow, toy_pages(), Counters())
    loading._achieved = lambda *load: told.append(load)
    loading.start(job(), KEY)
    loading.drop("r")
    ended(loading)
    assert not told
    slow.go.set()
    loading.start(job(), KEY)
    ended(loading)
    ((size_bytes, seconds, is_whole),) = told
    assert size_bytes > 1000 and seconds > 0 and is_whole
    loading.start(LoadJob("r", b"", 0, 64, BLOCKS, RequestIdentity()), KEY)
    ended(loading)
    assert told[1][0] == 0 and not told[1][2]


def test_a_load_of_nothing_fails_every_block(toy, stored) -> None:
    loading = loader(stored, toy_pages(), Counters())
    loading.start(LoadJob("r", b"", 0, 64, BLOCKS, RequestIdentity()), KEY)
    (load,) = ended(loading)
    assert load.failed_blocks(SIZE) == {1, 2, 3, 4}


def test_a_stalled_store_is_given_up_without_known_costs(toy, stored) -> None:
    slow, counters = Slow(stored), Counters()
    loading = loader(slow, toy_pages(), counters, stall_s=0.1)
    loading.start(job(), KEY)
    (load,) = ended(loading)
    slow.go.set()
    assert load.stop == 0 and not load.was_ended


def test_lossy_chunks_do_not_pass_for_lossless_ones(toy) -> None:
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["high"])
    counters = Counters()
    loading = loader(store, toy_pages(), counters)
    loading.start(job(), KEY)
    (load,) = ended(loading)
    assert load.stop == 0


def test_pages_know_up_to_where_they_are_filled(toy) -> None:
    pages, kv = toy_pages(), toy.kv(TOKENS)
    filling = Pages(pages, BLOCKS, start=64, stop=400)
    for start, stop in ((256, 384), (0, 128), (384, 512)):
        filling.place(kv.slice(start, stop))
    assert filling.close() == 128
    filling.place(kv.slice(128, 256))
    assert filling.close() == 128
    assert equal_tokens(pages, toy, 64, 128) and equal_tokens(pages, toy, 256, 400)
    assert (pages.read(BLOCKS, start=128, stop=256).keys[0] == 7).all()


class Counting:
    """A store that counts what is read."""

    def __init__(self, inner) -> None:
        self.inner, self.read = inner, []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def get(self, key, range=None):
        self.read.append(key.partition("/")[0])
        return self.inner.get(key, range)


def test_a_profile_is_read_once(toy) -> None:
    store = Counting(open_store("memory:"))
    toy.save(TOKENS, store, profile=toy.profile, levels=["medium"])
    store.read.clear()
    loading = loader(store, toy_pages(), Counters(), level="medium")
    for request in ("a", "b"):
        loading.start(job(request=request), KEY)
        (load,) = ended(loading)
        assert load.is_whole
    assert store.read.count("profiles") == 1 and store.read.count("chunks") == 8
