"""What a load gives back: the cache, and where the time and the bytes went."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.contexts.outcome import LoadedChunk
from cachegen.kvcache import KVCache
from cachegen.policy.controller import TimedDecision


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of work, on the load's clock.

    Attributes:
        work: `lookup`, `fetch`, `decode` or `recompute`.
        began_s: when it began.
        ended_s: when it ended.
        chunk: position of the chunk; None for the lookup.
        level: what it was worked on at; empty for the lookup.
        size_bytes: bytes that came over the link.
        outcome: `done`, `abandoned`, or the failure.
    """

    work: str
    began_s: float
    ended_s: float
    chunk: int | None = None
    level: str = ""
    size_bytes: int = 0
    outcome: str = "done"

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.began_s


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """A loaded prefix of a context.

    Attributes:
        kv: keys and values of the first tokens; None when there are none.
        num_tokens: how many tokens.
        exact: whether they are bit for bit what a model computed, or recomputed on top of that.
        ttft_s: from the call to the result: the load's part of the time to first token.
        size_bytes: bytes of chunks that came over the link, of use or not; what was fetched for
            another load at the same time counts too, manifests and profiles do not.
        chunks: what became of each token range, in order.
        decisions: everything that was decided, in the order of time.
        spans: the work, in the order of its beginnings.
    """

    kv: KVCache | None
    num_tokens: int
    exact: bool
    ttft_s: float
    size_bytes: int
    chunks: tuple[LoadedChunk, ...]
    decisions: tuple[TimedDecision, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def lookup_s(self) -> float:
        """Finding the prefix, reading its manifest and profile."""
        return self._spent_s("lookup")

    @property
    def fetch_s(self) -> float:
        """Transfers."""
        return self._spent_s("fetch")

    @property
    def decode_s(self) -> float:
        """Decoding chunks and putting them in their places."""
        return self._spent_s("decode")

    @property
    def recompute_s(self) -> float:
        """In the `recompute` callable."""
        return self._spent_s("recompute")

    @property
    def overlap_s(self) -> float:
        """What doing things at the same time saved: the parts' sum less the whole."""
        parts = self.lookup_s + self.fetch_s + self.decode_s + self.recompute_s
        return max(parts - self.ttft_s, 0.0)

    def _spent_s(self, work: str) -> float:
        """While any of it went on; the spans are in the order of their beginnings."""
        spent_s = until_s = 0.0
        for span in self.spans:
            if span.work == work and span.ended_s > until_s:
                spent_s += span.ended_s - max(span.began_s, until_s)
                until_s = span.ended_s
        return spent_s
