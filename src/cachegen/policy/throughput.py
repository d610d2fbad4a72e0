"""What a link gives, estimated from bytes as they arrive."""

from __future__ import annotations

import math

_WINDOW_S = 0.1
_PRIOR_S = 0.1
_BURST_BYTES = 16 << 10
_SLOT_S = 0.05
_FIRST_DEVIATION = 0.25
_DEVIATIONS = 1.5
_LEAST_SHARE = 0.2
_REQUEST_WEIGHT = 0.25
_LATE = 2.0
_LATE_S = 0.02
_REMEMBERED_S = 120.0


class Throughput:
    """Bytes per second over the time in which transfers are under way.

    The clock is the caller's: every method takes the time, which may not run backwards. Recent
    time counts most, silence counts as no bytes, and what was known from earlier fades. A link that
    was not used for minutes is unknown again, so that one that was bad is tried again. Not for use
    by several threads at once.

    As long as no transfer has its first byte, that is waiting, not silence, unless it lasts much
    longer than usual; after the link was idle it takes `request_s`. What comes first tells little:
    it may have been buffered on the way.

    Attributes:
        request_s: from asking to the first byte; None while nothing is known.
    """

    def __init__(
        self, prior_bytes_per_s: float | None = None, prior_request_s: float | None = None
    ) -> None:
        """Start from what is known of the link, if anything."""
        self.request_s = prior_request_s
        self._prior_bytes_per_s = prior_bytes_per_s
        self._prior_s = 0.0 if prior_bytes_per_s is None else _PRIOR_S
        self._bytes = self._seconds = 0.0
        self._transfers = self._flowing = 0
        self._asks_alone = False
        self._last_s: float | None = None
        self._uncounted_bytes = _BURST_BYTES
        self._deviation = _FIRST_DEVIATION
        self._slot_bytes = self._slot_s = 0.0

    def begin(self, now_s: float) -> None:
        """A transfer has been asked for."""
        if not self._transfers:
            self._forget(now_s)
            self._asks_alone, self._last_s = True, now_s
        self._transfers += 1

    def arrived(self, num_bytes: int, now_s: float, *, first: bool = False) -> None:
        """So many bytes have come, of whichever transfer; whether they are its first."""
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
        """A transfer is over, whole or not; whether its first byte had come."""
        silence_s = self._silence_s(now_s)
        if silence_s > 0:
            self._count(0, silence_s)
        self._transfers -= 1
        self._flowing -= answered
        self._asks_alone, self._last_s = False, now_s

    def bytes_per_s(self, now_s: float) -> float | None:
        """What to expect of the link; None while nothing is known."""
        self._forget(now_s)
        return self._expected(self._silence_s(now_s))

    @property
    def low_share(self) -> float:
        """Share of it to count on: less by as much as expectations have been wrong lately."""
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
        """Whether nothing can come yet."""
        return self._transfers > 0 and not self._flowing

    def _answered(self, waited_s: float) -> None:
        if not self._asks_alone:
            return
        self._asks_alone = False
        known_s = waited_s if self.request_s is None else self.request_s
        self.request_s = known_s + _REQUEST_WEIGHT * (waited_s - known_s)

    def _since_s(self, now_s: float) -> float:
        """Since the latest news."""
        return 0.0 if self._last_s is None else max(now_s - self._last_s, 0.0)

    def _forget(self, now_s: float) -> None:
        """Drop what is too old; what was given at the start counts from its first use."""
        if self._last_s is None:
            self._last_s = now_s
        if not self._transfers and self._since_s(now_s) > _REMEMBERED_S:
            self._bytes = self._seconds = self._prior_s = 0.0
            self._deviation = _FIRST_DEVIATION

    def _silence_s(self, now_s: float) -> float:
        """How long bytes have been missing."""
        if not self._transfers:
            return 0.0
        usual_s = _LATE * (self.request_s or 0.0) + _LATE_S if self._waits else 0.0
        return max(self._since_s(now_s) - usual_s, 0.0)

    def _count(self, num_bytes: int, seconds: float) -> None:
        """Bytes that came evenly over some seconds, up to now."""
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
        """Learn how far the latest slot was from what was expected before it."""
        expected = self._expected(0.0)
        if expected:
            wrong = abs(self._slot_bytes / self._slot_s / expected - 1)
            weight = 1 - math.exp(-self._slot_s / (2 * _WINDOW_S))
            self._deviation += (min(wrong, 1.0) - self._deviation) * weight
        self._slot_bytes = self._slot_s = 0.0
