"""The link of one load: one transfer at a time, which may be abandoned at any moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachegen.bitstream.manifest import StoredObject
from cachegen.errors import StoreTimeout
from cachegen.stream.controller import LoadState, Option, Transfer
from cachegen.stream.downloads import Arrived, Downloads, Failed, Fetched, Leave, News
from cachegen.stream.journal import Journal
from cachegen.stream.result import Span
from cachegen.stream.surroundings import Surroundings

HANGS = StoreTimeout.__name__
_DOWNLOADS = Downloads()


@dataclass(frozen=True, slots=True, eq=False)
class FromLink:
    """News of the transfer of this number."""

    number: int
    news: News


class Fetching:
    """Keeps `state.transfer` true, and the journal's fetch spans."""

    def __init__(
        self,
        state: LoadState,
        around: Surroundings,
        journal: Journal,
        tell: Callable[[FromLink], None],
    ) -> None:
        """Nothing is under way; ``tell`` takes the news, in any thread."""
        self._state, self._around, self._journal, self._tell = state, around, journal, tell
        self._number = 0
        self._last_byte_s = 0.0
        self._leave: Leave = lambda hangs: None

    def start(self, chunk: int, option: Option, stored: StoredObject) -> None:
        """Begin a transfer; none may be under way."""
        assert self._state.transfer is None
        self._last_byte_s = self._journal.now_s()
        self._state.transfer = Transfer(chunk, option, self._last_byte_s)
        self._number += 1
        number, tell = self._number, self._tell
        self._leave = _DOWNLOADS.start(
            self._around.store,
            stored,
            link=self._around.link,
            listener=lambda news: tell(FromLink(number, news)),
        )

    def end(self, outcome: str) -> Transfer | None:
        """End the transfer under way, whole or not, and return it."""
        transfer = self._state.transfer
        if transfer is None:
            return None
        self._leave(outcome == HANGS)
        self._number += 1
        self._state.transfer = None
        self._journal.spans.append(
            Span(
                "fetch",
                transfer.began_s,
                self._journal.now_s(),
                transfer.chunk,
                transfer.option.level,
                transfer.received_bytes,
                outcome,
            )
        )
        return transfer

    def take(self, event: FromLink) -> Fetched | Failed | None:
        """Note bytes that arrived; the end of the transfer under way is for the caller."""
        transfer, news = self._state.transfer, event.news
        if transfer is None or event.number != self._number:
            return None
        if isinstance(news, Arrived):
            self._last_byte_s = self._journal.now_s()
            transfer.received_bytes = news.num_bytes
            return None
        return news

    def stalled(self) -> Failed | None:
        """What a transfer that has been silent for too long counts as."""
        limit_s = self._around.stall_s
        if self._state.transfer is None or self._state.now_s - self._last_byte_s < limit_s:
            return None
        return Failed(StoreTimeout(f"no bytes for {limit_s} s"))
