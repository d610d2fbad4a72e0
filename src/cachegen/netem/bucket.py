"""The token bucket of one direction of a forwarder."""

from __future__ import annotations

import asyncio

# Short beside any object that is worth timing; timers of an event loop are as coarse as 1 ms.
_BURST_S = 0.002
# Arbitrary: 5 to 50 ms do; longer than a busy event loop is late by.
_PAUSE_S = 0.010
# Arbitrary: 16 to 256 KiB do; what one receive takes at most.
MAX_PIECE_BYTES = 1 << 16
# Of a full packet on Ethernet: 14 + 1,500 bytes, of which TCP with timestamps carries 1,448.
_PACKET_BYTES = 1514
_PAYLOAD_BYTES = 1448


class Bucket:
    """Lets bytes pass at a rate, in the order in which they were offered."""

    def __init__(self) -> None:
        """Begin without a limit."""
        self._bytes_per_s: float | None = None
        self._passed_s = 0.0
        self._returned_s = 0.0
        self._turn = asyncio.Lock()

    def set_rate(self, bits_per_s: float | None) -> None:
        """Set the rate from the next piece on; packet headers count, as they do on a wire."""
        payload = _PAYLOAD_BYTES / _PACKET_BYTES
        self._bytes_per_s = None if bits_per_s is None else bits_per_s / 8 * payload

    @property
    def piece_bytes(self) -> int:
        """Bytes to offer at once: few enough that a change of the rate shows soon."""
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
