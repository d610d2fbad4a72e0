"""The transfers of one load: the first one and those requested ahead of its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import StoreTimeout
from cachegen.loading.bundle import BundleNews, Whole, fetch_together
from cachegen.loading.downloads import Arrived, Failed, Leave
from cachegen.loading.journal import Journal
from cachegen.loading.resources import LoadResources
from cachegen.loading.result import Span
from cachegen.loading.sharing import downloads
from cachegen.policy.controller import LoadState, Option, Transfer

HANGS = StoreTimeout.__name__


@dataclass(frozen=True, slots=True, eq=False)
class FromLink:
    """An event of a transfer."""

    transfer: Transfer
    news: BundleNews


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A transfer of these objects that is complete or has failed."""

    transfer: Transfer
    objects: tuple[StoredObject, ...]
    news: Whole | Failed


class Fetching:
    """Starts and ends transfers, and records them in the load's state and journal."""

    def __init__(
        self,
        state: LoadState,
        resources: LoadResources,
        journal: Journal,
        tell: Callable[[FromLink], None],
    ) -> None:
        """Start without transfers; ``tell`` receives their events, in any thread."""
        self._state, self._resources, self._journal, self._tell = state, resources, journal, tell
        self._heard_s: dict[int, float] = {}
        self._leaves: dict[int, Leave] = {}
        self._objects: dict[int, tuple[StoredObject, ...]] = {}

    @property
    def num_objects(self) -> int:
        """Number of objects of the transfers under way."""
        return sum(len(self._objects[transfer.chunk]) for transfer in self._state.transfers)

    def start(self, chunk: int, option: Option, objects: Sequence[StoredObject]) -> None:
        """Request the objects of a chunk."""
        now_s, tell = self._journal.now_s(), self._tell
        transfer = Transfer(chunk, option, now_s)
        self._objects[chunk] = tuple(objects)
        self._leaves[chunk] = fetch_together(
            downloads(),
            self._resources.store,
            objects,
            link=self._resources.link,
            listener=lambda news: tell(FromLink(transfer, news)),
        )
        self._heard_s[chunk] = now_s
        self._state.transfers.append(transfer)

    def end(self, transfer: Transfer, outcome: str) -> None:
        """End a transfer, complete or not, and record its span."""
        now_s, transfers = self._journal.now_s(), self._state.transfers
        self._leaves.pop(transfer.chunk)(outcome == HANGS)
        was_first = transfers.index(transfer) == 0
        transfers.remove(transfer)
        if was_first and transfers:
            self._heard_s[transfers[0].chunk] = now_s
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

    def take(self, event: FromLink) -> Ended | None:
        """Record received bytes; return the end of a transfer for the caller to handle."""
        transfer, news = event.transfer, event.news
        if transfer not in self._state.transfers:
            return None
        if isinstance(news, Arrived):
            self._heard_s[transfer.chunk] = self._journal.now_s()
            transfer.received_bytes = news.num_bytes
            return None
        return Ended(transfer, self._objects[transfer.chunk], news)

    def stalled(self) -> Ended | None:
        """The end of the first transfer with `StoreTimeout` if it has been silent for too long.

        Those requested ahead may be silent while the ones before them go on.
        """
        limit_s, transfer = self._resources.stall_s, self._state.transfer
        if transfer is None or self._state.now_s - self._heard_s[transfer.chunk] < limit_s:
            return None
        silence = Failed(StoreTimeout(f"no bytes for {limit_s} s"))
        return Ended(transfer, self._objects[transfer.chunk], silence)
