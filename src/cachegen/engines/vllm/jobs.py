"""What scheduler and workers tell each other at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachegen.engines.vllm.costs import Learned, Prefill
from cachegen.engines.vllm.identity.request import RequestIdentity

BlockIds = tuple[tuple[int, ...], ...]
"""Ids of a request's blocks from token 0 on, for every KV cache group."""


@dataclass(frozen=True, slots=True)
class LoadJob:
    """Tokens to load into blocks.

    Attributes:
        request_id: of the request that waits for them.
        tokens: uint32, little-endian: those to look up, at least `stop`.
        start, stop: the tokens to load.
        blocks: where to.
        identity: of the request.
        slo_s: seconds left; None without a deadline.
        is_trial: it does not pay by what is known, and shall cost little if that is still so.
    """

    request_id: str
    tokens: bytes
    start: int
    stop: int
    blocks: BlockIds
    identity: RequestIdentity
    slo_s: float | None = None
    is_trial: bool = False


@dataclass(frozen=True, slots=True)
class SaveJob:
    """Tokens to save, all of them computed once this step has ended.

    Attributes:
        request_id: of the request that computed them.
        tokens: uint32, little-endian, from token 0 up to `stop`.
        start, stop: the tokens to save; a stored context ends at `start`, or it is 0.
        blocks: where they are.
        identity: of the request.
        exact: whether all of it was computed from tokens, or on top of exact KV.
        ids: of the chunks.
    """

    request_id: str
    tokens: bytes
    start: int
    stop: int
    blocks: BlockIds
    identity: RequestIdentity
    exact: bool
    ids: tuple[bytes, ...]


@dataclass(slots=True)
class Step:
    """From the scheduler: what is to be done in a step.

    Attributes:
        loads, saves: new jobs.
        dropped: requests that need their loads no more.
        prefill: what this step computes, if its time tells the cost of prefilling.
        is_idle: nothing is computed.
    """

    loads: list[LoadJob] = field(default_factory=list)
    saves: list[SaveJob] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    prefill: Prefill | None = None
    is_idle: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """From a worker: what became of jobs, and what was learned.

    Attributes:
        short: requests that did not get all they asked for.
        failed: those of them whose chunks could not be had; the others' loads were ended.
        saved, unsaved: ids of chunks that are stored now, and of those that were left out.
        learned: costs and throughput, if they changed.
    """

    short: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    saved: tuple[bytes, ...] = ()
    unsaved: tuple[bytes, ...] = ()
    learned: Learned | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.short or self.saved or self.unsaved or self.learned)

    def joined(self, other: Report) -> Report:
        """That of two workers; what was learned is the slower one's."""
        learned = self.learned or other.learned
        if self.learned and other.learned:
            learned = self.learned.slower(other.learned)
        return Report(
            self.short + other.short,
            self.failed + other.failed,
            self.saved + other.saved,
            self.unsaved + other.unsaved,
            learned,
        )
