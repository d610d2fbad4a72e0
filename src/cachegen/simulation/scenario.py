"""What a simulated load is asked to do, and what comes of it."""

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
        options: what it can be fetched at, in the order of their rank.
    """

    start: int
    stop: int
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What is stored of a context.

    Attributes:
        chunks: adjacent token ranges from token 0 on.
        default_rank: of the level that users are served at when nothing presses.
    """

    chunks: tuple[Chunk, ...]
    default_rank: int

    @property
    def num_tokens(self) -> int:
        """Tokens covered."""
        return self.chunks[-1].stop

    def without_options(self) -> Context:
        """The same context with nothing stored, so that all of it is recomputed."""
        chunks = tuple(Chunk(chunk.start, chunk.stop, ()) for chunk in self.chunks)
        return Context(chunks, self.default_rank)


@dataclass(frozen=True, slots=True)
class Request:
    """A load.

    Attributes:
        context: what is to be loaded.
        controller: who decides.
        costs: how long decoding and recomputing really take.
        arrival_s: when it begins, on the simulation's clock.
        slo_s: its deadline after that.
        believed: what the controller takes the costs for; the real ones when None.
    """

    context: Context
    controller: Controller
    costs: Costs
    arrival_s: float = 0.0
    slo_s: float | None = None
    believed: Costs | None = None

    def state(self) -> LoadState:
        """The load before it begins."""
        return LoadState(
            chunks=[ChunkState(c.start, c.stop, c.options) for c in self.context.chunks],
            costs=self.costs if self.believed is None else self.believed,
            default_rank=self.context.default_rank,
            can_recompute=self.costs.prefill is not None,
            slo_s=self.slo_s,
        )


@dataclass(frozen=True, slots=True)
class SimulatedLoad:
    """What came of a load.

    Attributes:
        arrival_s: when it began, on the simulation's clock.
        ttft_s: until its last chunk was there.
        slo_s: its deadline, if there was one.
        levels: what each chunk was had at; `text` where it was recomputed.
        received_bytes: all that arrived.
        abandoned_bytes: those of them that came of transfers given up.
        fetch_s: with a transfer under way.
        decode_s: of decoding, waiting for the decoder not included.
        recompute_s: of recomputing, waiting for the model not included.
        decisions: all of them, in the order of time.
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
        """Whether it ended within its deadline; true where there was none."""
        return self.slo_s is None or self.ttft_s <= self.slo_s

    @property
    def overlap_s(self) -> float:
        """What was done at the same time as something else."""
        return max(self.fetch_s + self.decode_s + self.recompute_s - self.ttft_s, 0.0)
