"""What decides how each chunk is had: the state it sees, and the decisions it gives.

Pure data and one protocol: no clock, no network, no model. The loader and the simulator keep the
same `LoadState` up to date, one from real threads, the other on a virtual clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from cachegen.codec.levels import TEXT
from cachegen.policy.costs import Costs

Resource = Literal["link", "model"]
Action = Literal["fetch", "recompute"]

MAX_TRANSFERS = 8
"""So many of a load are under way at most, all but the first asked for ahead."""
MAX_UNDECODED = 2
"""Nothing more is asked for while so many chunks have arrived and are not decoded."""


class Status(StrEnum):
    """Where a chunk is on its way."""

    WAITING = "waiting"
    FETCHING = "fetching"
    DECODING = "decoding"
    RECOMPUTING = "recomputing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a chunk.

    Attributes:
        chunk: its position in the context.
        action: fetch and decode it, or recompute it from its tokens.
        level: the level to fetch; `text` where it is recomputed.
        reason: why, for people.
    """

    chunk: int
    action: Action
    level: str
    reason: str

    @classmethod
    def fetch(cls, chunk: int, level: str, reason: str) -> Decision:
        """Fetch a chunk at a level."""
        return cls(chunk, "fetch", level, reason)

    @classmethod
    def recompute(cls, chunk: int, reason: str) -> Decision:
        """Recompute a chunk from its tokens."""
        return cls(chunk, "recompute", TEXT, reason)


@dataclass(frozen=True, slots=True)
class TimedDecision:
    """A decision, and when it was taken on the load's clock."""

    at_s: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class Option:
    """A level that a chunk can be fetched at.

    Attributes:
        level: its name.
        size_bytes: of the object.
        rank: position in the order of quality, from 0 (smallest) up; equal in all chunks of a
            context for the same level.
    """

    level: str
    size_bytes: int
    rank: int


@dataclass(slots=True)
class ChunkState:
    """A chunk of the load.

    Attributes:
        start: its first token.
        stop: the token after its last one.
        options: what it can be fetched at, in the order of `rank`; those that failed are gone.
        status: where it is on its way.
        level: the level it is being, or was, had at; `text` when recomputed.
    """

    start: int
    stop: int
    options: tuple[Option, ...]
    status: Status = Status.WAITING
    level: str | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens covered."""
        return self.stop - self.start

    def option(self, level: str) -> Option | None:
        """The option of this level, if it is there."""
        return next((option for option in self.options if option.level == level), None)


@dataclass(slots=True)
class Transfer:
    """A transfer under way.

    Attributes:
        chunk: which chunk.
        option: what of it.
        received_bytes: how much has arrived.
        began_s: when it was asked for, on the load's clock.
    """

    chunk: int
    option: Option
    began_s: float
    received_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        """What has not arrived."""
        return max(self.option.size_bytes - self.received_bytes, 0)


@dataclass(slots=True)
class LoadState:
    """Everything a controller may know. Controllers read it and never change it.

    Attributes:
        chunks: all of them, in the order of the context.
        costs: how long decoding and recomputing take.
        default_rank: rank of the level users are served at when nothing presses: lower ranks
            are worse than promised.
        can_recompute: whether there is a model at all.
        slo_s: deadline on the load's clock; None where there is none.
        now_s: the load's clock: 0 when the load began.
        bytes_per_s: what the link is expected to give this load, its share already taken; None
            when nothing is known of it.
        low_bytes_per_s: what the link gives even when it disappoints, for deadlines; None where
            that is not known apart from `bytes_per_s`.
        transfers: those under way, in the order they were asked for: the first one, and any asked
            for ahead of its end.
        recompute_began_s: when the recompute under way began; None where there is none.
        decode_began_s: when the decoding under way began; None where there is none, or where
            that is not known.
        model_share: how many loads take turns at the model, this one included.
        decoder_share: how many loads share the decoder, this one included.
        front: the first chunk that is not done; the number of chunks when all are.
    """

    chunks: list[ChunkState]
    costs: Costs
    default_rank: int
    can_recompute: bool = True
    slo_s: float | None = None
    now_s: float = 0.0
    bytes_per_s: float | None = None
    low_bytes_per_s: float | None = None
    transfers: list[Transfer] = field(default_factory=list)
    recompute_began_s: float | None = None
    decode_began_s: float | None = None
    model_share: int = 1
    decoder_share: int = 1
    front: int = field(default=0)

    def advance_front(self) -> None:
        """Move `front`, the first chunk that is not done, on."""
        while self.front < len(self.chunks) and self.chunks[self.front].status is Status.DONE:
            self.front += 1

    @property
    def transfer(self) -> Transfer | None:
        """The transfer under way that was asked for first."""
        return self.transfers[0] if self.transfers else None

    def place_of(self, chunk: int) -> int:
        """Which of the transfers is a chunk's.

        Raises:
            ValueError: none of them.
        """
        chunks = [transfer.chunk for transfer in self.transfers]
        if chunk not in chunks:
            raise ValueError(f"chunk {chunk} cannot be had in another way: it is not on its way")
        return chunks.index(chunk)

    @property
    def is_done(self) -> bool:
        """Whether every chunk is there."""
        return self.front == len(self.chunks)


class Controller(Protocol):
    """Chooses for each chunk: fetch at a level, or recompute.

    Both methods are pure: equal states give equal decisions.
    """

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """What the idle link, or the idle model, is to do next.

        For the link: fetch a chunk that waits, at one of its options; it is asked for ahead, so
        that its first byte comes as the transfers under way end. For the model: recompute the
        chunk at `state.front`, provided it waits (a chunk needs all those before it). None leaves
        the resource idle until something changes; where nothing does, it is asked again within a
        tenth of a second. The chunks that wait without any
        option must be recomputed as soon as they are at the front.
        """
        ...

    def reconsider(self, state: LoadState) -> Decision | None:
        """Whether to abandon a transfer under way, and what to do instead.

        Those asked for after it are abandoned with it. Called as bytes arrive, and every few
        milliseconds when none do. The decision may fetch its chunk at another level, or recompute
        it (only where it is at the front and the model is idle); None goes on.
        """
        ...
