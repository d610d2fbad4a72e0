"""A link whose rate follows a trace, shared equally by the transfers on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from cachegen.policy.link_estimate import LinkEstimate
from cachegen.simulation.station import Owner

# Sizes are integers: what is missing below half a byte is rounding.
_WHOLE_BYTES = 0.5


@dataclass(slots=True, eq=False)
class Flow(Generic[Owner]):
    """A transfer under way.

    Attributes:
        owner: the load.
        begins_s: when its first byte can come.
        queued_bytes: bytes of an abandoned transfer, which come first.
        missing_bytes: its own bytes that have not arrived.
    """

    owner: Owner
    begins_s: float
    queued_bytes: float
    missing_bytes: float

    def receive(self, num_bytes: float) -> float:
        """Take bytes that the link has carried, and return how many are its own."""
        own = min(max(num_bytes - self.queued_bytes, 0.0), self.missing_bytes)
        self.queued_bytes = max(self.queued_bytes - num_bytes, 0.0)
        self.missing_bytes -= own
        return own


class Pipe(Generic[Owner]):
    """The transfers of a link, which feeds the loader's own estimate with every byte."""

    def __init__(self, pieces: Iterator[tuple[float, float]], estimate: LinkEstimate) -> None:
        """Start without transfers; ``pieces`` are pairs of end time and bytes per second."""
        self.estimate = estimate
        self.flows: list[Flow[Owner]] = []
        self._pieces = pieces
        self._piece_ends_s, self._bytes_per_s = next(pieces)

    def begin(self, flow: Flow[Owner], now_s: float) -> None:
        """Begin a transfer."""
        self.flows.append(flow)
        self.estimate.begin(now_s)
        if flow.begins_s <= now_s:
            self.estimate.arrived(0, now_s, first=True)

    def end(self, flow: Flow[Owner], now_s: float) -> None:
        """End a transfer, complete or not."""
        self.flows.remove(flow)
        self.estimate.end(now_s, answered=flow.begins_s <= now_s)

    def next_s(self, now_s: float) -> float:
        """When a transfer next begins to flow or ends, or the rate changes; inf without any."""
        if not self.flows:
            return math.inf
        soonest, num_flowing, least = self._piece_ends_s, 0, math.inf
        for flow in self.flows:
            if flow.begins_s > now_s:
                soonest = min(soonest, flow.begins_s)
            else:
                num_flowing += 1
                least = min(least, flow.queued_bytes + flow.missing_bytes)
        if num_flowing and self._bytes_per_s:
            soonest = min(soonest, now_s + least * num_flowing / self._bytes_per_s)
        return soonest

    def advance(self, now_s: float, until_s: float) -> list[Flow[Owner]]:
        """Let bytes flow, at most to the next event; return the transfers now complete."""
        flowing = [flow for flow in self.flows if flow.begins_s <= now_s]
        if flowing:
            each = (until_s - now_s) * self._bytes_per_s / len(flowing)
            arrived = sum([flow.receive(each) for flow in flowing])
            self.estimate.arrived(round(arrived), until_s)
        if len(flowing) < len(self.flows):
            self._announce(now_s, until_s)
        while self._piece_ends_s <= until_s:
            self._piece_ends_s, self._bytes_per_s = next(self._pieces)
        return [flow for flow in flowing if flow.missing_bytes <= _WHOLE_BYTES]

    def _announce(self, now_s: float, until_s: float) -> None:
        for flow in self.flows:
            if now_s < flow.begins_s <= until_s:
                self.estimate.arrived(0, until_s, first=True)
