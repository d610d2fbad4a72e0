"""The record of one load: when which work was done, what was decided, what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cachegen.loading.result import Span
from cachegen.policy.controller import Decision, TimedDecision


@dataclass(slots=True, eq=False)
class Journal:
    """Written by the load, on a clock that starts with it.

    Attributes:
        began_s: the load's beginning on the machine's monotonic clock.
        spans: the work.
        decisions: what was decided.
        errors: by chunk, what went wrong with it.
    """

    began_s: float = field(default_factory=time.perf_counter)
    spans: list[Span] = field(default_factory=list)
    decisions: list[TimedDecision] = field(default_factory=list)
    errors: dict[int, list[str]] = field(default_factory=dict)

    def now_s(self) -> float:
        """The load's clock."""
        return time.perf_counter() - self.began_s

    def decided(self, decision: Decision) -> None:
        """Record a decision."""
        self.decisions.append(TimedDecision(self.now_s(), decision))

    def error(self, chunk: int, text: str) -> None:
        """Record what went wrong, once."""
        known = self.errors.setdefault(chunk, [])
        if text not in known:
            known.append(text)

    def reason(self, chunk: int) -> str:
        """All that went wrong with a chunk."""
        return "; ".join(self.errors.get(chunk, ()))

    def in_order(self) -> tuple[Span, ...]:
        """The spans by their beginnings."""
        return tuple(sorted(self.spans, key=lambda span: span.began_s))
