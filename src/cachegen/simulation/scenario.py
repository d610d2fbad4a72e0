"""Requests of simulated loads, and their results."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachegen.policy.controller import (
    ChunkState,
    Controller,
    LoadState,
    Option,
    TimedDecision,
)
from cachegen.policy.costs import Costs


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a context.

    Attributes:
        start: its first token.
        stop: the token after its last one.
        options: levels it can be fetched at, in the order of their rank.
    """

    start: int
    stop: int
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """A stored context.

    Attributes:
        chunks: adjacent token ranges from token 0 on.
        default_rank: rank of the default level.
    """

    chunks: tuple[Chunk, ...]
    default_rank: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.chunks[-1].stop

    def without_options(self) -> Context:
        """The same context with nothing stored, so that it must be recomputed."""
        chunks = tuple(Chunk(chunk.start, chunk.stop, ()) for chunk in self.chunks)
        return Context(chunks, self.default_rank)


@dataclass(frozen=True, slots=True)
class Request:
    """A load to simulate.

    Attributes:
        context: the context to load.
        controller: takes the decisions.
        costs: the real times of decoding and recomputing.
        arrival_s: when it begins, in seconds on the simulation's clock.
        slo_s: its deadline in seconds after that; None if there is none.
        believed: the costs that the controller assumes; the real ones if None.
    """

    context: Context
    controller: Controller
    costs: Costs
    arrival_s: float = 0.0
    slo_s: float | None = None
    believed: Costs | None = None

    def state(self) -> LoadState:
        """The state of the load before it begins."""
        return LoadState(
            chunks=[ChunkState(c.start, c.stop, c.options) for c in self.context.chunks],
            costs=self.costs if self.believed is None else self.believed,
            default_rank=self.context.default_rank,
            can_recompute=self.costs.prefill is not None,
            slo_s=self.slo_s,
        )


@dataclass(frozen=True, slots=True)
class SimulatedLoad:
    """The result of a simulated load.

    Attributes:
        arrival_s: when it began, in seconds on the simulation's clock.
        ttft_s: seconds until its last chunk was done.
        slo_s: its deadline; None if there was none.
        levels: the level of each chunk; `text` if it was recomputed.
        received_bytes: bytes that arrived.
        abandoned_bytes: those of them that belong to abandoned transfers.
        fetch_s: seconds with a transfer under way.
        decode_s: seconds of decoding, without waiting for the decoder.
        recompute_s: seconds of recomputing, without waiting for the model.
        decisions: all decisions, in the order of time.
    """

    arrival_s: float
    ttft_s: float
    slo_s: float | None
    levels: tuple[str, ...]
    received_bytes: int
    abandoned_bytes: int
    fetch_s: float
    decode_s: float
    recompute_s: float
    decisions: tuple[TimedDecision, ...] = field(repr=False)

    @property
    def met(self) -> bool:
        """Whether it met its deadline; true if there was none."""
        return self.slo_s is None or self.ttft_s <= self.slo_s

    @property
    def overlap_s(self) -> float:
        """Seconds saved by working at the same time: the sum of the parts less the whole."""
        return max(self.fetch_s + self.decode_s + self.recompute_s - self.ttft_s, 0.0)
