"""What tenants may take at once of what they share."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from starlette.exceptions import HTTPException

from cachegen.errors import StoreFull
from cachegen.server.shares import Shares
from cachegen.server.tenants import Tenant

MB = 10**6


def test_room_is_each_tenant_s_own() -> None:
    shares = Shares(2, max_object_bytes=MB)
    a, b = (shares.of(Tenant(name)).uploads for name in "ab")
    with a.holding(3 * MB), a.holding(MB):
        with pytest.raises(HTTPException, match="503"), a.holding(1):
            pass
        with b.holding(4 * MB):
            pass
    with a.holding(4 * MB):
        pass


def test_room_is_no_more_than_the_quota() -> None:
    room = Shares(2, max_object_bytes=MB).of(Tenant("a", quota_bytes=MB)).uploads
    with room.holding(MB), pytest.raises(HTTPException, match="503"), room.holding(1):
        pass
    with pytest.raises(StoreFull, match="at most 1000000 bytes"), room.holding(MB + 1):
        pass


def most_at_once(shares: Shares, *names: str) -> int:
    """The threads that are at work when these tenants ask for far too many."""
    working, go_on = itertools.count(), threading.Event()

    def work() -> None:
        next(working)
        go_on.wait()

    async def run() -> int:
        tenants = [shares.of(Tenant(name)) for name in names]
        tasks = [asyncio.create_task(t.in_thread(work)) for t in tenants for _ in range(60)]
        count, before = 0, -1
        while count > before:
            await asyncio.sleep(0.1)
            count, before = int(repr(working)[6:-1]), count
        go_on.set()
        await asyncio.gather(*tasks)
        return count

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("tenants", "names", "expected"),
    [(0, "a", 40), (2, "a", 20), (9, "a", 10), (9, "abcdefgh", 40)],
)
def test_threads_are_shared(tenants: int, names: str, expected: int) -> None:
    assert most_at_once(Shares(tenants, max_object_bytes=MB), *names) == expected


def test_who_asks_for_many_turns_gets_one_at_a_time() -> None:
    """A large upload waits for one of each other tenant, not for all of them."""
    turns: list[str] = []

    async def put(shares: Shares, name: str) -> None:
        async with shares.of(Tenant(name)).large_put():
            turns.append(name)
            await asyncio.sleep(0.001)

    async def run() -> None:
        shares = Shares(3, max_object_bytes=MB)
        many = [asyncio.create_task(put(shares, "a")) for _ in range(20)]
        await asyncio.sleep(0)
        await put(shares, "b")
        assert len(turns) < 5
        await asyncio.gather(*many)

    asyncio.run(run())


@pytest.mark.parametrize(("tenants", "expected"), [(0, 2), (3, 1)])
def test_large_bodies_in_memory(tenants: int, expected: int) -> None:
    """Two at once of all tenants; one at once of each where there are several."""

    async def run() -> None:
        share = Shares(tenants, max_object_bytes=MB).of(Tenant("a"))
        holding = most = 0

        async def put() -> None:
            nonlocal holding, most
            async with share.large_put():
                holding += 1
                most = max(most, holding)
                await asyncio.sleep(0.001)
                holding -= 1

        await asyncio.gather(*(put() for _ in range(5)))
        assert most == expected

    asyncio.run(run())
