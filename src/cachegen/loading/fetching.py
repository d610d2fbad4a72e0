"""The transfers of one load: the first one and those requested ahead of its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import CacheGenError, StoreTimeout
from cachegen.loading.decoding import Data, Objects
from cachegen.loading.downloads import Leave, Received
from cachegen.loading.journal import Journal
from cachegen.loading.resources import LoadResources
from cachegen.loading.result import Span
from cachegen.policy.controller import LoadState, Option, Transfer

HANGS = StoreTimeout.__name__


@dataclass(slots=True, eq=False)
class _Objects:
    """Several objects fetched as one transfer, which fails with the first of them that fails."""

    objects: Objects
    heard_s: float
    leaves: list[Leave] = field(default_factory=list)
    received: dict[int, Received] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum(received.num_bytes for received in self.received.values())

    @property
    def data(self) -> Data | None:
        """The bytes of all objects, in the order requested; None while one is missing."""
        found = (self.received.get(number) for number in range(len(self.objects)))
        data = tuple(received.data for received in found if received and received.data is not None)
        return data if len(data) == len(self.objects) else None


class Fetching:
    """Starts and ends transfers, and records them in the load's state and journal."""

    def __init__(
        self,
        state: LoadState,
        resources: LoadResources,
        journal: Journal,
        *,
        post: Callable[[Callable[[], None]], None],
        fetched: Callable[[int, Objects, Data], None],
        failed: Callable[[int, CacheGenError, float], None],
    ) -> None:
        """Start without transfers.

        Args:
            state: of the load.
            resources: of the load.
            journal: of the load.
            post: takes what the deciding thread is to do next, from any thread.
            fetched: is told the chunk, its objects and their bytes.
            failed: is told the chunk, why it failed, and when it was requested.
        """
        self._state, self._resources, self._journal = state, resources, journal
        self._post, self._fetched, self._failed = post, fetched, failed
        self._under_way: dict[int, _Objects] = {}

    @property
    def num_objects(self) -> int:
        """Number of objects of the transfers under way."""
        return sum(len(under_way.objects) for under_way in self._under_way.values())

    def start(self, chunk: int, option: Option, objects: Sequence[StoredObject]) -> None:
        """Request the objects of a chunk."""
        now_s = self._journal.now_s()
        transfer, under_way = Transfer(chunk, option, now_s), _Objects(tuple(objects), now_s)
        self._under_way[chunk] = under_way
        self._state.transfers.append(transfer)
        for number, stored in enumerate(objects):
            leave = self._resources.downloads.start(
                self._resources.store,
                stored,
                link=self._resources.link,
                listener=self._listener(transfer, number),
            )
            under_way.leaves.append(leave)

    def end(self, transfer: Transfer, outcome: str) -> None:
        """End a transfer, complete or not, and record its span."""
        now_s, transfers = self._journal.now_s(), self._state.transfers
        for leave in self._under_way.pop(transfer.chunk).leaves:
            leave(outcome == HANGS)
        was_first = transfers.index(transfer) == 0
        transfers.remove(transfer)
        if was_first and transfers:
            self._under_way[transfers[0].chunk].heard_s = now_s
        self._journal.spans.append(
            Span(
                "fetch",
                transfer.began_s,
                now_s,
                transfer.chunk,
                transfer.option.level,
                transfer.received_bytes,
                outcome,
            )
        )

    def abandon(self, first: int = 0) -> list[Transfer]:
        """End the transfers from index ``first`` on, and return them, the last one first."""
        abandoned = self._state.transfers[first:][::-1]
        for transfer in abandoned:
            self.end(transfer, "abandoned")
        return abandoned

    def end_stalled(self) -> None:
        """Let the first transfer fail with `StoreTimeout` if it has been silent for too long.

        Those requested ahead may be silent while the ones before them go on.
        """
        limit_s, transfer = self._resources.stall_s, self._state.transfer
        if transfer is None:
            return
        if self._state.now_s - self._under_way[transfer.chunk].heard_s >= limit_s:
            self._fail(transfer, StoreTimeout(f"no bytes for {limit_s} s"))

    def _listener(self, transfer: Transfer, number: int) -> Callable[[Received], None]:
        def listen(received: Received) -> None:
            self._post(partial(self._hear, transfer, number, received))

        return listen

    def _hear(self, transfer: Transfer, number: int, received: Received) -> None:
        """Record what arrived of one of a transfer's objects; end it with the last one's end."""
        if transfer not in self._state.transfers:
            return
        under_way = self._under_way[transfer.chunk]
        if received.error is not None:
            self._fail(transfer, received.error)
            return
        under_way.received[number] = received
        transfer.received_bytes = under_way.num_bytes
        if received.data is None:
            under_way.heard_s = self._journal.now_s()
        elif (data := under_way.data) is not None:
            self.end(transfer, "done")
            self._fetched(transfer.chunk, under_way.objects, data)

    def _fail(self, transfer: Transfer, error: CacheGenError) -> None:
        self.end(transfer, type(error).__name__)
        self._failed(transfer.chunk, error, transfer.began_s)
