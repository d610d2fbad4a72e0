"""Loads and saves in forked children: `forker.py SCENARIOS URL [SCENARIOS URL]...`.

Scenarios are names joined by commas. Prints the name of each, and "done" where every child ended
by itself with the right planes. A child that hangs shows where and ends.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import torch

from cachegen.contexts.save import save
from cachegen.errors import StoreError
from cachegen.kvcache import KVCache
from cachegen.loading.load import load
from cachegen.loading.resources import decoder, link_to, measurements_of, model_queue_of
from cachegen.loading.result import LoadResult
from cachegen.store import Store, open_store

FINGERPRINT = bytes(range(32))
CHILD_S = 25
NUM_TOKENS = 700
CONTEXTS = 4
NOBODY = "cachegen://127.0.0.1:9"
CORES = torch.get_num_threads()


def tokens_of(number: int) -> list[int]:
    return [(number * 7919 + position) % 50_000 for position in range(NUM_TOKENS)]


def kv_of(number: int) -> KVCache:
    generator = torch.Generator().manual_seed(number)
    planes = [torch.randn(2, NUM_TOKENS, 16, generator=generator) for _ in range(4)]
    keys, values = (tuple(plane.bfloat16() for plane in half) for half in (planes[:2], planes[2:]))
    return KVCache(keys, values, NUM_TOKENS)


def put(store: Store, number: int) -> None:
    save(
        kv_of(number),
        tokens=tokens_of(number),
        store=store,
        levels=["lossless"],
        chunk_tokens=128,
        fingerprint=FINGERPRINT,
    )


def loaded(store: Store, number: int = 0, **options) -> LoadResult:
    options = {"level": "lossless", "fingerprint": FINGERPRINT} | options
    result = load(tokens_of(number), store=store, **options)
    truth = kv_of(number)
    assert result.num_tokens == NUM_TOKENS, result
    for found, true in zip(result.kv.planes(), truth.planes(), strict=True):
        assert torch.equal(found, true)
    return result


def start(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    signal.alarm(CHILD_S)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def await_all(children: list[int]) -> None:
    for child in children:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0, f"a child ended with {code}"


def in_child(work: Callable[[], object]) -> None:
    await_all([start(work)])


def putting(store: Store) -> None:
    """What the others load."""
    for number in range(CONTEXTS):
        put(store, number)


def children(store: Store) -> None:
    """A child, a grandchild, and the parent afterwards."""
    loaded(store)

    def child() -> None:
        loaded(store, 1)
        in_child(lambda: loaded(store))
        loaded(store)

    in_child(child)
    in_child(child)
    loaded(store, 1)


def saving(store: Store) -> None:
    """A child saves what it then loads, and so does the parent."""
    loaded(store)

    def child() -> None:
        put(store, 100)
        loaded(store, 100)
        loaded(store, 1)

    in_child(child)
    put(store, 101)
    loaded(store, 101)


def busy(store: Store) -> None:
    """Forks at any moment of loads in other threads."""
    stop = threading.Event()

    def keep_loading(number: int) -> None:
        while not stop.is_set():
            loaded(store, number)

    threads = [threading.Thread(target=keep_loading, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for number in range(10):
        time.sleep(0.003 * number)
        in_child(lambda number=number: loaded(store, number % CONTEXTS))
    stop.set()
    for thread in threads:
        thread.join()


def together(store: Store) -> None:
    """The parent and its children load different contexts at once, again and again."""

    def again(number: int) -> None:
        for _ in range(6):
            loaded(store, number)

    for number in range(CONTEXTS):
        loaded(store, number)
    started = [start(lambda number=number: again(number)) for number in range(1, CONTEXTS)]
    again(0)
    await_all(started)


def refused(store: Store) -> None:
    """The child's loads end at once: with an error, or by recomputing."""
    loaded(store)

    def child() -> None:
        began_s = time.monotonic()
        try:
            loaded(store)
        except StoreError as error:
            assert "'spawn'" in str(error), error
        else:
            raise AssertionError("expected a StoreError")
        result = loaded(store, recompute=recompute, level=None)
        assert {chunk.level for chunk in result.chunks} == {"text"}
        assert "'spawn'" in result.chunks[0].reason
        try:
            open_store(store.url).lookup(["k"])
        except StoreError as error:
            assert "'spawn'" in str(error), error
        assert time.monotonic() - began_s < 5

    in_child(child)
    loaded(store)


def recompute(tokens: list[int], *, past: KVCache | None) -> KVCache:
    begin = 0 if past is None else past.num_tokens
    return kv_of(0).slice(begin, begin + len(tokens))


def recomputing(store: Store) -> None:
    """A model that computes with all cores, in the parent and in its child."""

    def compute(tokens: list[int], *, past: KVCache | None) -> KVCache:
        torch.sin(torch.randn(4_000_000)) @ torch.randn(4_000_000)
        return recompute(tokens, past=past)

    def load_nothing() -> None:
        result = loaded(open_store(NOBODY), recompute=compute, level=None)
        assert {chunk.level for chunk in result.chunks} == {"text"}

    def once() -> None:
        compute(tokens_of(0), past=None)
        loaded(store)

    torch.set_num_threads(max(CORES, 2))
    loaded(store, recompute=compute)
    once()
    in_child(once)
    in_child(lambda: in_child(once))
    in_child(load_nothing)


def held(store: Store) -> None:
    """Decoder, model and link are in use by threads that the child does not have."""
    known, hold = measurements_of(FINGERPRINT, "cpu"), threading.Event()
    link, turns = link_to(store.url, known), model_queue_of(FINGERPRINT, "cpu")
    link.begin(time.perf_counter())
    turn = turns.queue(None)
    for _ in range(8):
        decoder().submit(hold.wait)

    def child() -> None:
        assert link_to(store.url, known) is not link
        assert model_queue_of(FINGERPRINT, "cpu").users == 0
        assert decoder().share(0) == 1
        loaded(store)
        result = loaded(open_store(NOBODY), recompute=recompute, level=None)
        assert {chunk.level for chunk in result.chunks} == {"text"}

    in_child(child)
    hold.set()
    turns.end(turn)
    loaded(store)


SCENARIOS = {
    work.__name__: work
    for work in (putting, children, saving, busy, together, held, recomputing, refused)
}


def main() -> None:
    """With one thread where nothing else is asked for: more would spin on cores that are busy."""
    faulthandler.register(signal.SIGALRM, chain=True)
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    for scenarios, url in zip(arguments[::2], arguments[1::2], strict=True):
        store = open_store(url)
        for name in scenarios.split(","):
            print(name, flush=True)
            SCENARIOS[name](store)
    print("done")


if __name__ == "__main__":
    main()
