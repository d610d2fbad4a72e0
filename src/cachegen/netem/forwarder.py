"""A TCP forwarder on loopback that limits the rate of each direction."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from cachegen.netem.bucket import MAX_PIECE_BYTES, Bucket
from cachegen.netem.link import clamped_bits_per_s
from cachegen.netem.relay import Relay


class Forwarder:
    """A TCP forwarder that runs in a thread of its own until it is closed."""

    def __init__(self) -> None:
        """Start, without a limit."""
        self._up, self._down = Bucket(), Bucket()
        self._ports: dict[int, int] = {}
        self._relay = Relay(
            "cachegen-forwarder",
            there=partial(_pump, bucket=self._up),
            back=partial(_pump, bucket=self._down),
        )

    def port_to(self, port: int) -> int:
        """The port that leads, through this forwarder, to another port on loopback."""
        if port not in self._ports:
            self._ports[port] = self._relay.listen(lambda: port)
        return self._ports[port]

    def set_rate(self, mbit_s: float | None) -> None:
        """Set the rate of each direction in Mbit/s; None lifts the limit."""
        bits_per_s = None if mbit_s is None else clamped_bits_per_s(mbit_s)
        self._up.set_rate(bits_per_s)
        self._down.set_rate(bits_per_s)

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._relay.close()


async def _pump(source: socket.socket, sink: socket.socket, bucket: Bucket) -> None:
    loop = asyncio.get_running_loop()
    while received := memoryview(await loop.sock_recv(source, MAX_PIECE_BYTES)):
        while received:
            piece = received[: bucket.piece_bytes]
            received = received[len(piece) :]
            await bucket.take(len(piece))
            await loop.sock_sendall(sink, piece)
    sink.shutdown(socket.SHUT_WR)
