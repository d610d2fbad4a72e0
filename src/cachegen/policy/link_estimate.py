"""The throughput of the link to a store, estimated once for all loads that use it."""

from __future__ import annotations

import threading

from cachegen.policy.throughput import Throughput

# Longer than a lookup is waited for (6 s by default), so that a second load profits. Arbitrary: 6
# to 60 s.
_SILENCE_S = 10.0


class LinkEstimate:
    """One estimate of the throughput of the link to a store, for all loads; safe between threads.

    Times are in seconds on one monotonic clock.
    """

    def __init__(self, prior_bytes_per_s: float | None = None) -> None:
        """Start from an earlier throughput, if one is known."""
        self._throughput = Throughput(prior_bytes_per_s)
        self._lock = threading.Lock()
        self._transfers = 0
        self._silent_since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Note that a transfer was requested."""
        with self._lock:
            self._transfers += 1
            self._throughput.begin(now_s)

    def arrived(self, num_bytes: int, now_s: float, *, first: bool = False) -> None:
        """Note that bytes arrived; ``first`` if they are the first of their transfer."""
        with self._lock:
            self._throughput.arrived(num_bytes, now_s, first=first)

    def end(self, now_s: float, *, answered: bool = True) -> None:
        """Note that a transfer ended, complete or not; ``answered`` if any byte of it came."""
        with self._lock:
            self._transfers -= 1
            self._throughput.end(now_s, answered=answered)

    def share(self, now_s: float, *, own: int) -> tuple[float | None, float | None]:
        """Expected and cautious throughput of one load in bytes per second; None if unknown.

        ``own`` is how many of the transfers under way are its own.
        """
        with self._lock:
            whole = self._throughput.bytes_per_s(now_s)
            low_share = self._throughput.low_share
            others = max(self._transfers - own, 0)
        if whole is None:
            return None, None
        expected = whole * max(own, 1) / (max(own, 1) + others)
        return expected, low_share * expected

    def known(self, now_s: float) -> tuple[float, float] | None:
        """Bytes per second, and seconds to a first byte; None while either is unknown."""
        with self._lock:
            bytes_per_s = self._throughput.bytes_per_s(now_s)
            request_s = self._throughput.request_s
        if bytes_per_s is None or request_s is None:
            return None
        return bytes_per_s, request_s

    def went_silent(self, now_s: float | None) -> None:
        """Note when the store gave no answer in time; None once it answers again."""
        self._silent_since_s = now_s

    def was_silent(self, now_s: float) -> bool:
        """Whether the store was silent a few seconds ago and has not answered since."""
        since_s = self._silent_since_s
        return since_s is not None and now_s - since_s < _SILENCE_S
