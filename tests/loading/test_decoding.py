"""The decoder threads are shared; parts of a cache are joined in place."""

from __future__ import annotations

import threading

import pytest
import torch

from cachegen.kvcache import KVCache
from cachegen.loading.decoding import Assembly, DecoderThreads


def part(start: int, stop: int, *, dim: int = 4) -> KVCache:
    """Every value of a token is its position."""
    rows = torch.arange(start, stop, dtype=torch.float32)[None, :, None]
    plane = rows.expand(2, -1, dim).clone()
    return KVCache((plane, plane + 0.5), (plane, plane), stop - start, start)


def test_parts_in_any_order_make_the_whole():
    assembly = Assembly(10)
    for start, stop in ((4, 8), (8, 10), (0, 4)):
        assert assembly.misfit(part(start, stop), start=start, stop=stop) is None
        assembly.place(part(start, stop))
    whole = assembly.kv(10)
    assert all(map(torch.equal, whole.planes(), part(0, 10).planes()))
    assert all(map(torch.equal, assembly.kv(6).planes(), part(0, 6).planes()))


def test_what_is_put_into_a_room_is_in_the_whole():
    assembly = Assembly(10)
    assembly.place(part(0, 4))
    room = assembly.room(part(0, 1).geometry, start=4, stop=10)
    assert (room.start, room.stop) == (4, 10)
    for plane, values in zip(room.planes(), part(4, 10).planes(), strict=True):
        plane.copy_(values)
    assert all(map(torch.equal, assembly.kv(10).planes(), part(0, 10).planes()))


def test_there_is_no_room_before_a_first_part():
    assert Assembly(10).room(part(0, 1).geometry, start=0, stop=4) is None


@pytest.mark.parametrize(("stop", "dim"), ((11, 4), (8, 5)))
def test_there_is_no_room_for_what_does_not_fit(stop, dim):
    assembly = Assembly(10)
    assembly.place(part(0, 4))
    assert assembly.room(part(0, 1, dim=dim).geometry, start=4, stop=stop) is None


def test_a_part_that_is_the_whole_is_not_copied():
    assembly, whole = Assembly(4), part(0, 4)
    assembly.place(whole)
    assert assembly.kv(4) is whole


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
