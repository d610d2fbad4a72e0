from __future__ import annotations

import threading

from cachegen.loading.resources import link_to, measurements_of, model_queue_of


def test_one_of_each_also_for_threads_at_once() -> None:
    barrier, found = threading.Barrier(8), []

    def make() -> None:
        barrier.wait(10)
        found.append(measurements_of(bytes([7]) * 32, "cpu"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_one_of_each_in_a_process() -> None:
    known = measurements_of(bytes(32), "cpu")
    assert known is measurements_of(bytes(32), "cpu")
    assert known is not measurements_of(bytes(32), "cuda:0")
    assert link_to("file:one", known) is link_to("file:one", known)
    assert link_to("file:one", known) is not link_to("file:two", known)
    assert model_queue_of(bytes(32), "cpu") is model_queue_of(bytes(32), "cpu")
