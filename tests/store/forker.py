"""Uses a store before a fork and after it: `forker.py URL`, or `forker.py ports URL`.

Prints "done" where parent, child and grandchild can all use it, or "refused" where the children
are told to be spawned. With "ports" it only asks, each process once and the parent again.
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

from cachegen.errors import StoreError
from cachegen.store import Store, open_store, read, shared_store

CHILD_S = 20
DATA = {f"k/{number}": bytes([number]) * (100_000 * number + 1) for number in range(4)}


def in_child(work: Callable[[], object]) -> None:
    """A child that hangs shows where and ends."""
    child = os.fork()
    if not child:
        signal.alarm(CHILD_S)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def use(store: Store, name: str) -> None:
    """All five verbs."""
    assert store.put(f"from/{name}", name.encode())
    assert read(store, f"from/{name}") == name.encode()
    for key, data in DATA.items():
        assert read(store, key) == data
    assert store.lookup([*DATA, "none"]) == [*map(len, DATA.values()), None]
    assert set(store.list("k")) == set(DATA)
    store.delete(f"from/{name}")


def use_in_children(store: Store) -> None:
    def child() -> None:
        use(store, "child")
        use(store if store.url == "memory:" else shared_store(sys.argv[-1], create=True), "again")
        in_child(lambda: use(store, "grandchild"))

    for _ in range(3):
        in_child(child)


def refusals(store: Store) -> list[str]:
    """What each verb says, of this store and of one opened now."""
    said = []
    for one in (store, open_store(sys.argv[-1])):
        for verb in (
            lambda one=one: one.put("x", b"1"),
            lambda one=one: one.get("k/0"),
            lambda one=one: one.lookup(["k/0", "k/1"]),
            lambda one=one: list(one.list()),
            lambda one=one: one.delete("k/0"),
        ):
            try:
                verb()
            except StoreError as error:
                said.append(str(error))
    return said


def is_refused(store: Store) -> None:
    began_s = time.monotonic()
    said = refusals(store)
    assert len(said) == 10, said
    assert all("start processes by 'spawn'" in one and store.url in one for one in said), said
    assert time.monotonic() - began_s < 5


def keep_reading(store: Store, stop: threading.Event) -> None:
    while not stop.is_set():
        for key, data in DATA.items():
            assert read(store, key) == data


def main() -> None:
    faulthandler.register(signal.SIGALRM, chain=True)
    store = shared_store(sys.argv[-1], create=True)
    if sys.argv[1] == "ports":
        store.lookup(["k"])
        in_child(lambda: (store.lookup(["k"]), in_child(lambda: store.lookup(["k"]))))
        store.lookup(["k"])
        return
    for key, data in DATA.items():
        store.put(key, data)
    if store.url.startswith(("s3", "gs", "az")):
        in_child(lambda: in_child(lambda: is_refused(store)))
        use(store, "parent")
        print("refused")
        return
    stop = threading.Event()
    other = threading.Thread(target=keep_reading, args=(store, stop))
    other.start()
    try:
        use_in_children(store)
    finally:
        stop.set()
        other.join()
    use(store, "parent")
    print("done")


if __name__ == "__main__":
    main()
