from __future__ import annotations

import threading

from cachegen.loading.decoding import DecoderThreads


def test_the_decoder_is_shared_by_those_who_wait_for_it() -> None:
    threads, hold, done = DecoderThreads(1), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        hold.wait(10)
        done.release()

    assert threads.share(0) == 1
    for _ in range(3):
        threads.submit(work)
    assert [threads.share(own) for own in (0, 1, 3)] == [4, 3, 1]
    hold.set()
    for _ in range(3):
        assert done.acquire(timeout=10)
