"""Accepts connections: each is counted before its handshake, which has to end in time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

from cachegen.server.admission import Newcomers
from cachegen.server.connections import LimitedConnection
from cachegen.server.limits import Limits

# Arbitrary: 0.01 to 1 s do. Without a free file descriptor nothing can be accepted for a while.
_PAUSE_S = 0.1
# The most that waits unsent in the system. The rest waits here, where it is seen whether the
# client takes it: bytes in a buffer of megabytes look as if they had been taken at once.
# Arbitrary: 64 to 256 KiB do, with pieces of 256 KiB for `patience_s`.
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)


class Listener:
    """Makes a connection of every client that a listening socket accepts; begins at once.

    Who comes too often (`Newcomers`) is hung up on, before any handshake. Where there is a context
    for TLS, a handshake has `head_s` and the last bytes `patience_s`.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], LimitedConnection],
        *,
        tls: ssl.SSLContext | None,
        limits: Limits,
        newcomers: Newcomers,
    ) -> None:
        self._listening, self._make, self._tls, self._limits = listening, make, tls, limits
        self._newcomers = newcomers
        self._opening: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept nobody any more, and drop those whose handshake is under way."""
        self._accepting.cancel()
        for task in self._opening:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until `close` has done its work."""
        await asyncio.wait([self._accepting, *self._opening])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listening)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
                continue
            if self._newcomers.let_in(address[0]):
                self._begin(accepted)
            else:
                accepted.close()

    def _begin(self, accepted: socket.socket) -> None:
        connection = self._make()
        task = asyncio.get_running_loop().create_task(self._open(connection, accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        connection.enter(task)

    async def _open(self, connection: LimitedConnection, accepted: socket.socket) -> None:
        """Shake hands; a client that does not, or not in time, is gone without a word."""
        limits, tls = self._limits, self._tls
        try:
            accepted.setsockopt(*_UNSENT)
            await _connect(connection, accepted, tls=tls, limits=limits)
        except OSError as error:
            # Its frames refer to it: a cycle, which keeps the buffers until a full collection.
            error.__traceback__ = None
            connection.leave()
            accepted.close()
        except asyncio.CancelledError:
            connection.leave()
            accepted.close()
            raise


class _Tls(SSLProtocol):
    """TLS that reads little at once.

    What is read lies in a buffer, and is copied into another one that never shrinks, of each
    connection. Those of uvloop's own take 1 MB of a connection that has been used; these 0.2.
    """

    # 32 to 256 KiB are equally fast.
    max_size = 32 << 10


async def _connect(
    connection: LimitedConnection,
    accepted: socket.socket,
    *,
    tls: ssl.SSLContext | None,
    limits: Limits,
) -> None:
    """Give a connection its transport, once hands are shaken where there is TLS."""
    loop = asyncio.get_running_loop()
    if tls is None:
        await loop.connect_accepted_socket(lambda: connection, accepted)
        return
    shaken: asyncio.Future[None] = loop.create_future()
    protocol = _Tls(
        loop,
        connection,
        tls,
        shaken,
        server_side=True,
        ssl_handshake_timeout=limits.head_s,  # type: ignore[arg-type]
        ssl_shutdown_timeout=limits.patience_s,
    )
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
    try:
        await shaken
    except BaseException:
        transport.abort()
        raise
