"""The result of a load: the cache, and where time and bytes were spent."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.contexts.outcome import LoadedChunk
from cachegen.kvcache import KVCache
from cachegen.policy.controller import TimedDecision


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work, in seconds on the load's clock.

    Attributes:
        work: `lookup`, `fetch`, `decode` or `recompute`.
        began_s: when it began.
        ended_s: when it ended.
        chunk: index of the chunk; None for the lookup.
        level: level of the chunk; empty for the lookup.
        size_bytes: bytes received.
        outcome: `done`, `abandoned`, or the name of the error.
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
        """Its duration."""
        return self.ended_s - self.began_s


@dataclass(frozen=True, slots=True, eq=False)
class LoadResult:
    """A loaded prefix of a context.

    Attributes:
        kv: keys and values of the first tokens; None if there are none.
        num_tokens: number of tokens.
        exact: whether they are bit for bit what a model computed, or recomputed on top of that.
        ttft_s: seconds from the call to the result: the load's part of the time to first token.
        size_bytes: bytes of chunks received, used or not, including what was fetched for another
            load at the same time, without manifests and profiles.
        chunks: the outcome of each token range, in order.
        decisions: all decisions, in the order of time.
        spans: the work done, in the order of its beginnings.
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
        """Seconds of finding the prefix and reading its manifest and profile."""
        return self._spent_s("lookup")

    @property
    def fetch_s(self) -> float:
        """Seconds with a transfer under way."""
        return self._spent_s("fetch")

    @property
    def decode_s(self) -> float:
        """Seconds of decoding chunks into the cache."""
        return self._spent_s("decode")

    @property
    def recompute_s(self) -> float:
        """Seconds in the `recompute` callable."""
        return self._spent_s("recompute")

    @property
    def overlap_s(self) -> float:
        """Seconds saved by working at the same time: the sum of the parts less the whole."""
        parts = self.lookup_s + self.fetch_s + self.decode_s + self.recompute_s
        return max(parts - self.ttft_s, 0.0)

    def _spent_s(self, work: str) -> float:
        """Seconds during which at least one span of this work was under way."""
        spent_s = until_s = 0.0
        for span in self.spans:
            if span.work == work and span.ended_s > until_s:
                spent_s += span.ended_s - max(span.began_s, until_s)
                until_s = span.ended_s
        return spent_s
