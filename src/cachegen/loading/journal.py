"""The record of one load: its work over time, its decisions and its errors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cachegen.loading.result import Span
from cachegen.policy.controller import Decision, TimedDecision


@dataclass(slots=True, eq=False)
class Journal:
    """The record of one load, on a clock that starts with it.

    Attributes:
        began_s: when the load began, on `time.perf_counter`.
        spans: the work done.
        decisions: the decisions taken.
        errors: messages by chunk.
    """

    began_s: float = field(default_factory=time.perf_counter)
    spans: list[Span] = field(default_factory=list)
    decisions: list[TimedDecision] = field(default_factory=list)
    errors: dict[int, list[str]] = field(default_factory=dict)

    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.perf_counter() - self.began_s

    def decided(self, decision: Decision) -> None:
        """Record a decision."""
        self.decisions.append(TimedDecision(self.now_s(), decision))

    def error(self, chunk: int, text: str) -> None:
        """Record an error of a chunk, each text once."""
        known = self.errors.setdefault(chunk, [])
        if text not in known:
            known.append(text)

    def reason(self, chunk: int) -> str:
        """All errors of a chunk, in one line."""
        return "; ".join(self.errors.get(chunk, ()))

    def in_order(self) -> tuple[Span, ...]:
        """The spans in the order of their beginnings."""
        return tuple(sorted(self.spans, key=lambda span: span.began_s))
