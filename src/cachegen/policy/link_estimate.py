"""The way to a store, as its users see it: one estimate for all of them."""

from __future__ import annotations

import threading

from cachegen.policy.throughput import Throughput

_SILENCE_S = 10.0


class LinkEstimate:
    """The way to a store: one estimate of its throughput for all who use it.

    Times are of one monotonic clock, in seconds.
    """

    def __init__(self, prior_bytes_per_s: float | None = None) -> None:
        """Begin with the throughput known from earlier, if any."""
        self._throughput = Throughput(prior_bytes_per_s)
        self._lock = threading.Lock()
        self._transfers = 0
        self._silent_since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """A transfer begins."""
        with self._lock:
            self._transfers += 1
            self._throughput.begin(now_s)

    def arrived(self, num_bytes: int, now_s: float, *, first: bool = False) -> None:
        """Bytes arrived; ``first`` where they are the first of their transfer."""
        with self._lock:
            self._throughput.arrived(num_bytes, now_s, first=first)

    def end(self, now_s: float, *, answered: bool = True) -> None:
        """A transfer is over, whole or not; ``answered`` where anything of it has come."""
        with self._lock:
            self._transfers -= 1
            self._throughput.end(now_s, answered=answered)

    def share(self, now_s: float, *, own: int) -> tuple[float | None, float | None]:
        """What one load may expect, and what it may count on, in bytes per second.

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
        """Bytes per second and seconds to the first byte by now; None for nothing."""
        with self._lock:
            bytes_per_s = self._throughput.bytes_per_s(now_s)
            request_s = self._throughput.request_s
        if bytes_per_s is None or request_s is None:
            return None
        return bytes_per_s, request_s

    def went_silent(self, now_s: float | None) -> None:
        """The store gave no answer in time; None: it did."""
        self._silent_since_s = now_s

    def was_silent(self, now_s: float) -> bool:
        """Whether that was a moment ago, and the last that was heard of it."""
        since_s = self._silent_since_s
        return since_s is not None and now_s - since_s < _SILENCE_S
