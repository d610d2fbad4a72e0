"""What each tenant may take of a server at once, so that none waits for another's leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from cachegen.errors import StoreFull
from cachegen.server.tenants import Tenant
from cachegen.store.protocol import MAX_KEY_LENGTH
from cachegen.store.wire import MAX_LOOKUP_KEYS

P = ParamSpec("P")
T = TypeVar("T")

# A bound: the most keys, each as long as allowed with quotes, comma and space; 4 bytes to spare.
MAX_LOOKUP_BYTES = (MAX_KEY_LENGTH + 8) * MAX_LOOKUP_KEYS
# A tenant's unfinished uploads, in objects of the largest size. Arbitrary: 2 to 16 do.
_LARGEST_AT_ONCE = 4
# A tenant's unfinished lookups, in those of the largest size: 34 MB. Arbitrary: 4 to 64 do.
_LOOKUPS_AT_ONCE = 16
# A bound on memory: a large body is read whole to be stored, so two take twice the largest object.
_LARGE_PUTS = 2
# As many as anyio has for all; what a store blocks. A tenant has a quarter of them where there are
# four tenants or more (2 to 8 parts do), as of the connections.
_THREADS = 40
_TENANT_SHARES = 4


class Room:
    """Limits the bytes of bodies, of what is named, that are received and not worked on yet."""

    def __init__(self, max_bytes: int, what: str) -> None:
        self._max_bytes = self._free_bytes = max_bytes
        self._what = what

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Reserve bytes while the context lasts.

        Raises:
            StoreFull: there are fewer even without other bodies.
            HTTPException: other bodies of this tenant have reserved too many (503).
        """
        if size_bytes > self._max_bytes:
            raise StoreFull(f"expected a body of at most {self._max_bytes} bytes, got {size_bytes}")
        if size_bytes > self._free_bytes:
            raise HTTPException(503, f"too many {self._what} at once: try again later")
        self._free_bytes -= size_bytes
        try:
            yield
        finally:
            self._free_bytes += size_bytes


class Share:
    """A tenant's part of a server.

    Attributes:
        uploads: room for bodies of objects; on disk, or in memory while they are small.
        lookups: room for bodies of lookups, in memory.
    """

    def __init__(self, uploads: Room, *, parts: int, turns: asyncio.Semaphore) -> None:
        self.uploads = uploads
        self.lookups = Room(_LOOKUPS_AT_ONCE * MAX_LOOKUP_BYTES, "lookups")
        self._turns = turns
        self._own_turns = asyncio.Semaphore(_LARGE_PUTS if parts == 1 else 1)
        self._threads = asyncio.Semaphore(_THREADS // parts)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread, one of this tenant's part of them."""
        async with self._threads:
            return await run_in_threadpool(work, *args, **kwargs)

    @asynccontextmanager
    async def large_put(self) -> AsyncIterator[None]:
        """Wait for a turn to hold a large object in memory.

        Turns go by order of asking, and of several tenants each asks for one at a time.
        """
        async with self._own_turns, self._turns:
            yield


class Shares:
    """The shares of all tenants."""

    def __init__(self, tenants: int, *, max_object_bytes: int) -> None:
        self._parts = min(max(1, tenants), _TENANT_SHARES)
        self._max_bytes = _LARGEST_AT_ONCE * max_object_bytes
        self._turns = asyncio.Semaphore(_LARGE_PUTS)
        self._shares: dict[str, Share] = {}

    def of(self, tenant: Tenant) -> Share:
        """A tenant's share. Its unfinished uploads may take what its quota allows, at most."""
        if tenant.name not in self._shares:
            quota_bytes = self._max_bytes if tenant.quota_bytes is None else tenant.quota_bytes
            uploads = Room(min(self._max_bytes, quota_bytes), "uploads")
            self._shares[tenant.name] = Share(uploads, parts=self._parts, turns=self._turns)
        return self._shares[tenant.name]
