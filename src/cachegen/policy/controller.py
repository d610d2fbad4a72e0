"""The state that controllers see, the decisions they return, and their protocol.

No clock, no network, no model. The loader updates a `LoadState` from real threads, the simulator on
a virtual clock.
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
"""Transfers of a load under way at once at most; all but the first are requested ahead.

Enough for 80 ms a request at 3 Gbit/s with chunks of 3.8 MB (1,536 tokens of Llama-3.1-8B at
`high`), beyond what was measured in docs/decisions/2026-11-21-one-load.md.
"""
MAX_UNDECODED = 2
"""Nothing more is requested while this many chunks have arrived and are not decoded.

With 1 loads take up to 8% longer, with 4 less than 1% shorter (200 simulated loads on links of
simulation/varying.py, by hand).
"""


class Status(StrEnum):
    """Progress of a chunk."""

    WAITING = "waiting"
    FETCHING = "fetching"
    DECODING = "decoding"
    RECOMPUTING = "recomputing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a chunk.

    Attributes:
        chunk: its index in the context.
        action: fetch and decode it, or recompute it from its tokens.
        level: the level to fetch; `text` where it is recomputed.
        reason: why, in words for people.
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
    """A decision, and when it was taken, in seconds on the load's clock."""

    at_s: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class Option:
    """A level that a chunk can be fetched at.

    Attributes:
        level: its name.
        size_bytes: bytes to fetch.
        rank: position in the order of quality, from 0 (smallest) up; the same for a level in all
            chunks of a context.
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
        options: levels it can be fetched at, in the order of `rank`, without those that failed.
        status: its progress.
        level: the level it is being or was loaded at; `text` when recomputed.
    """

    start: int
    stop: int
    options: tuple[Option, ...]
    status: Status = Status.WAITING
    level: str | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.stop - self.start

    def option(self, level: str) -> Option | None:
        """The option of this level; None if there is none."""
        return next((option for option in self.options if option.level == level), None)


@dataclass(slots=True)
class Transfer:
    """A transfer under way.

    Attributes:
        chunk: index of the chunk.
        option: the level it is fetched at.
        began_s: when it was requested, in seconds on the load's clock.
        received_bytes: bytes that have arrived.
    """

    chunk: int
    option: Option
    began_s: float
    received_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes that have not arrived."""
        return max(self.option.size_bytes - self.received_bytes, 0)


@dataclass(slots=True)
class LoadState:
    """Everything a controller knows of a load. Controllers read it and never change it.

    Attributes:
        chunks: all of them, in the order of the context.
        costs: how long decoding and recomputing take.
        default_rank: rank of the default level; lower ranks are worse than promised.
        can_recompute: whether there is a model to recompute with.
        slo_s: deadline on the load's clock; None where there is none.
        now_s: seconds since the load began, on its clock.
        bytes_per_s: expected throughput of this load, after sharing the link with others; None
            while it is unknown.
        low_bytes_per_s: cautious estimate of the same, for deadlines; None if there is none.
        transfers: those under way, in the order of their requests.
        recompute_began_s: when the recompute under way began; None if there is none.
        decode_began_s: when the decoding under way began; None if there is none, or if that is
            unknown.
        model_share: how many loads share the model, this one included.
        decoder_share: how many loads share the decoder, this one included.
        front: index of the first chunk that is not done; the number of chunks when all are.
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
        """Move `front` to the first chunk that is not done."""
        while self.front < len(self.chunks) and self.chunks[self.front].status is Status.DONE:
            self.front += 1

    @property
    def transfer(self) -> Transfer | None:
        """The transfer under way that was requested first; None if there is none."""
        return self.transfers[0] if self.transfers else None

    def place_of(self, chunk: int) -> int:
        """Index in `transfers` of a chunk's transfer.

        Raises:
            ValueError: the chunk has none.
        """
        chunks = [transfer.chunk for transfer in self.transfers]
        if chunk not in chunks:
            raise ValueError(f"chunk {chunk} cannot be had in another way: it is not on its way")
        return chunks.index(chunk)

    @property
    def is_done(self) -> bool:
        """Whether every chunk is done."""
        return self.front == len(self.chunks)


class Controller(Protocol):
    """Chooses for each chunk: fetch at a level, or recompute.

    Both methods are pure: equal states give equal decisions.
    """

    def choose(self, state: LoadState, resource: Resource) -> Decision | None:
        """Choose what the idle link, or the idle model, does next.

        For the link: fetch a waiting chunk at one of its options. It is requested ahead, so that
        its first byte comes as the transfers under way end. For the model: recompute the chunk at
        `state.front` if it waits (a chunk needs all those before it). None leaves the resource
        idle; the controller is asked again when something changes, or after a tenth of a
        second. A waiting chunk without options must be recomputed once it is at the front.
        """
        ...

    def reconsider(self, state: LoadState) -> Decision | None:
        """Choose whether to abandon a transfer under way, and what to do with its chunk instead.

        Transfers requested after it are abandoned too. Called as bytes arrive, and every few
        milliseconds when none do. The decision may fetch the chunk at another level, or recompute
        it if it is at the front and the model is idle; None abandons nothing.
        """
        ...
