"""TCP connections from ports on loopback to others, carried in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

LOOPBACK = "127.0.0.1"

Carry = Callable[[socket.socket, socket.socket], Coroutine[Any, Any, None]]


class Relay:
    """Runs until it is closed; what happens to bytes is told to it.

    Args:
        name: of the thread.
        there: carries from a client's socket to the server's, until it returns.
        back: carries from the server's to the client's.

    Either ends the connection, for both directions, by an `OSError`.
    """

    def __init__(self, name: str, *, there: Carry, back: Carry) -> None:
        self._there, self._back = there, back
        self._accepting: list[Future[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def listen(self, upstream: Callable[[], int]) -> int:
        """A new port, whose connections lead to the port that is upstream when they begin."""
        listener = socket.create_server((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        accepting = self._accept(listener, upstream)
        self._accepting.append(asyncio.run_coroutine_threadsafe(accepting, self._loop))
        return port

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    async def _accept(self, listener: socket.socket, upstream: Callable[[], int]) -> None:
        with listener:
            listener.setblocking(False)
            async with asyncio.TaskGroup() as connections:
                while True:
                    near, _ = await self._loop.sock_accept(listener)
                    connections.create_task(self._serve(near, upstream()))

    async def _serve(self, near: socket.socket, port: int) -> None:
        """Until both directions have ended or one side is gone; then close the other."""
        with near, socket.socket() as far:
            for connection in (near, far):
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.sock_connect(far, (LOOPBACK, port))
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._there(near, far))
                    directions.create_task(self._back(far, near))
            except* OSError:
                pass
