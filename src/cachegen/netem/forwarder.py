"""A TCP forwarder on loopback that limits the rate of each direction."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future

from cachegen.netem.bucket import MAX_PIECE_BYTES, Bucket
from cachegen.netem.link import clamped_bits_per_s

LOOPBACK = "127.0.0.1"


class Forwarder:
    """A TCP forwarder that runs in a thread of its own until it is closed."""

    def __init__(self) -> None:
        """Start, without a limit."""
        self._up, self._down = Bucket(), Bucket()
        self._ports: dict[int, int] = {}
        self._accepting: list[Future[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="cachegen-forwarder")
        self._thread.start()

    def port_to(self, port: int) -> int:
        """The port that leads, through this forwarder, to another port on loopback."""
        if port not in self._ports:
            listener = socket.create_server((LOOPBACK, 0))
            self._ports[port] = listener.getsockname()[1]
            accepting = self._accept(listener, port)
            self._accepting.append(asyncio.run_coroutine_threadsafe(accepting, self._loop))
        return self._ports[port]

    def set_rate(self, mbit_s: float | None) -> None:
        """Set the rate of each direction in Mbit/s; None lifts the limit."""
        bits_per_s = None if mbit_s is None else clamped_bits_per_s(mbit_s)
        self._up.set_rate(bits_per_s)
        self._down.set_rate(bits_per_s)

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    async def _accept(self, listener: socket.socket, port: int) -> None:
        with listener:
            listener.setblocking(False)
            async with asyncio.TaskGroup() as connections:
                while True:
                    near, _ = await self._loop.sock_accept(listener)
                    connections.create_task(self._serve(near, port))

    async def _serve(self, near: socket.socket, port: int) -> None:
        """Forward until both directions have ended or one side is gone, then close the other."""
        with near, socket.socket() as far:
            for connection in (near, far):
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(far, (LOOPBACK, port))
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(_pump(near, far, self._up))
                    directions.create_task(_pump(far, near, self._down))
            except* OSError:
                pass


async def _pump(source: socket.socket, sink: socket.socket, bucket: Bucket) -> None:
    loop = asyncio.get_running_loop()
    while received := memoryview(await loop.sock_recv(source, MAX_PIECE_BYTES)):
        while received:
            piece = received[: bucket.piece_bytes]
            received = received[len(piece) :]
            await bucket.take(len(piece))
            await loop.sock_sendall(sink, piece)
    sink.shutdown(socket.SHUT_WR)
