"""The throughput of the link to a store, estimated from bytes as they arrive, for all its loads."""

from __future__ import annotations

import math
import threading

# "Alike": 200 simulated loads on links of simulation/varying.py, by hand, end within 2%
# of the same time on average and meet the same deadlines but for 3 in 100.

# Time constant of the average. Arbitrary: 0.05 to 0.3 s end alike.
_WINDOW_S = 0.1
# Seconds that a throughput known from earlier counts for. Arbitrary: 0.03 to 0.3 s end alike.
_PRIOR_S = 0.1
# First bytes not counted: above TCP's initial window of 10 packets (RFC 6928), which comes at once.
_BURST_BYTES = 16 << 10
# What comes so long after the first byte was buffered nowhere: a link on which the burst is not
# over by then is slow, and known to be. Arbitrary: 0.3 to 2 s does.
_BURST_S = 0.5
# Seconds over which expected and received bytes are compared. Arbitrary: 0.02 to 0.1 end alike.
_SLOT_S = 0.05
# Deviation of an unknown link: 0.1 to 0.5 meet deadlines alike, at a mean KL of 0.0024 to 0.0044.
_FIRST_DEVIATION = 0.25
# Deviations to subtract: 1 to 2 meet deadlines alike, at a mean KL of 0.0024 to 0.0034.
_DEVIATIONS = 1.5
# Share to count on at least. Arbitrary: 0.1 to 0.4 end alike.
_LEAST_SHARE = 0.2
# Weight of the newest request's time. Arbitrary: 0.1 to 0.5, a mean over the last 2 to 10.
_REQUEST_WEIGHT = 0.25
# A wait of up to 2 usual ones and 20 ms is not silence. Arbitrary: above the jitter of requests.
_LATE = 2.0
_LATE_S = 0.02
# Arbitrary: from half a minute to the hour for which measurements.py keeps a throughput.
_REMEMBERED_S = 120.0


class Throughput:
    """Estimates bytes per second while transfers are under way.

    Every method takes the time in seconds, which may not run backwards. Recent time counts most,
    silence counts as zero bytes, and a throughput known from earlier fades. A link unused for two
    minutes is unknown again, so that a bad one is tried again. Not safe between threads.

    The wait for a first byte is not silence unless it lasts much longer than `request_s`. The very
    first bytes are not counted: they may have been buffered on the way.

    Attributes:
        request_s: seconds from a request to its first byte; None while unknown.
    """

    def __init__(
        self, prior_bytes_per_s: float | None = None, prior_request_s: float | None = None
    ) -> None:
        """Start from an earlier throughput and request time, if they are known."""
        self.request_s = prior_request_s
        self._prior_bytes_per_s = prior_bytes_per_s
        self._prior_s = 0.0 if prior_bytes_per_s is None else _PRIOR_S
        self._bytes = self._seconds = 0.0
        self._transfers = self._flowing = 0
        self._asks_alone = False
        self._last_s: float | None = None
        self._uncounted_bytes = _BURST_BYTES
        self._burst_s: float | None = None
        self._deviation = _FIRST_DEVIATION
        self._slot_bytes = self._slot_s = 0.0

    def begin(self, now_s: float) -> None:
        """Note that a transfer was requested."""
        if not self._transfers:
            self._forget(now_s)
            self._asks_alone, self._last_s = True, now_s
        self._transfers += 1

    def arrived(self, num_bytes: int, now_s: float, *, first: bool = False) -> None:
        """Note bytes of any transfer; ``first`` if they are its first."""
        if self._burst_s is None:
            self._burst_s = now_s
        if now_s - self._burst_s > _BURST_S:
            self._uncounted_bytes = 0
        uncounted = min(self._uncounted_bytes, num_bytes)
        self._uncounted_bytes -= uncounted
        passed_s = self._since_s(now_s)
        if self._waits:
            self._answered(passed_s)
        elif num_bytes > uncounted:
            self._count(num_bytes - uncounted, passed_s * (1 - uncounted / num_bytes))
        self._flowing += first
        self._last_s = now_s

    def end(self, now_s: float, *, answered: bool = True) -> None:
        """Note that a transfer ended, complete or not; ``answered`` if any byte of it came."""
        silence_s = self._silence_s(now_s)
        if silence_s > 0:
            self._count(0, silence_s)
        self._transfers -= 1
        self._flowing -= answered
        self._asks_alone, self._last_s = False, now_s

    def bytes_per_s(self, now_s: float) -> float | None:
        """Expected throughput of the link; None while unknown."""
        self._forget(now_s)
        return self._expected(self._silence_s(now_s))

    @property
    def low_share(self) -> float:
        """Share of the expected throughput to count on: lower the more it has varied lately."""
        return max(1 - _DEVIATIONS * self._deviation, _LEAST_SHARE)

    def _expected(self, silence_s: float) -> float | None:
        fade = math.exp(-silence_s / _WINDOW_S)
        seconds = self._seconds * fade + _WINDOW_S * (1 - fade)
        prior_s = self._prior_s * fade
        if not (self._bytes or prior_s):
            return None
        prior_bytes = prior_s * (self._prior_bytes_per_s or 0.0)
        return (self._bytes * fade + prior_bytes) / (seconds + prior_s)

    @property
    def _waits(self) -> bool:
        """Whether all transfers still wait for their first byte."""
        return self._transfers > 0 and not self._flowing

    def _answered(self, waited_s: float) -> None:
        if not self._asks_alone:
            return
        self._asks_alone = False
        known_s = waited_s if self.request_s is None else self.request_s
        self.request_s = known_s + _REQUEST_WEIGHT * (waited_s - known_s)

    def _since_s(self, now_s: float) -> float:
        """Seconds since the last event."""
        return 0.0 if self._last_s is None else max(now_s - self._last_s, 0.0)

    def _forget(self, now_s: float) -> None:
        """Drop an estimate unused for too long; one given at the start ages from its first use."""
        if self._last_s is None:
            self._last_s = now_s
        if not self._transfers and self._since_s(now_s) > _REMEMBERED_S:
            self._bytes = self._seconds = self._prior_s = 0.0
            self._deviation = _FIRST_DEVIATION

    def _silence_s(self, now_s: float) -> float:
        """Seconds for which bytes have been missing."""
        if not self._transfers:
            return 0.0
        usual_s = _LATE * (self.request_s or 0.0) + _LATE_S if self._waits else 0.0
        return max(self._since_s(now_s) - usual_s, 0.0)

    def _count(self, num_bytes: int, seconds: float) -> None:
        """Average in bytes that came evenly over the last seconds."""
        self._slot_bytes += num_bytes
        self._slot_s += seconds
        if self._slot_s >= _SLOT_S:
            self._compare()
        fade = math.exp(-seconds / _WINDOW_S)
        lasting_s = _WINDOW_S * (1 - fade)
        self._bytes = self._bytes * fade + num_bytes * (lasting_s / seconds if seconds else 1.0)
        self._seconds = self._seconds * fade + lasting_s
        self._prior_s *= fade

    def _compare(self) -> None:
        """Update the deviation by how far the last slot was from the expected throughput."""
        expected = self._expected(0.0)
        if expected:
            wrong = abs(self._slot_bytes / self._slot_s / expected - 1)
            weight = 1 - math.exp(-self._slot_s / (2 * _WINDOW_S))
            self._deviation += (min(wrong, 1.0) - self._deviation) * weight
        self._slot_bytes = self._slot_s = 0.0


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
