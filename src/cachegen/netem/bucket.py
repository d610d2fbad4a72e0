"""The token bucket of one direction of a forwarder."""

from __future__ import annotations

import asyncio

_BURST_S = 0.002
_PAUSE_S = 0.010
MAX_PIECE_BYTES = 1 << 16
_PACKET_BYTES = 1514
_PAYLOAD_BYTES = 1448


class Bucket:
    """Lets bytes pass at a rate, in the order in which they were offered."""

    def __init__(self) -> None:
        """No limit."""
        self._bytes_per_s: float | None = None
        self._passed_s = 0.0
        self._returned_s = 0.0
        self._turn = asyncio.Lock()

    def set_rate(self, bits_per_s: float | None) -> None:
        """From the next piece on; headers of packets count, as they do on a wire."""
        payload = _PAYLOAD_BYTES / _PACKET_BYTES
        self._bytes_per_s = None if bits_per_s is None else bits_per_s / 8 * payload

    @property
    def piece_bytes(self) -> int:
        """How much to offer at once, so that the rate can change soon."""
        if self._bytes_per_s is None:
            return MAX_PIECE_BYTES
        wanted = int(self._bytes_per_s * _BURST_S)
        return min(max(wanted, _PAYLOAD_BYTES), MAX_PIECE_BYTES)

    async def take(self, size_bytes: int) -> None:
        """Return when so many bytes have passed.

        While bytes keep coming, a piece that was let through late does not delay the next;
        after a pause no more than a burst passes at once.
        """
        async with self._turn:
            if self._bytes_per_s is None:
                return
            clock_s = asyncio.get_running_loop().time
            if clock_s() > self._returned_s + _PAUSE_S:
                self._passed_s = max(self._passed_s, clock_s() - _BURST_S)
            self._passed_s += size_bytes / self._bytes_per_s
            await asyncio.sleep(self._passed_s - clock_s())
            self._returned_s = clock_s()
