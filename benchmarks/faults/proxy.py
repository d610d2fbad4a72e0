"""A TCP proxy that breaks the answers of a server, by script, at exact bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from cachegen.netem.relay import Relay

PIECE_BYTES = 1 << 16
DRIBBLE_BYTES, DRIBBLE_TOTAL_BYTES, DRIBBLE_S = 512, 16384, 0.01
REQUESTS = (b"GET ", b"HEAD ", b"POST ")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Kind = Literal["reset", "truncate", "stall", "flip", "dribble", "refuse", "call_and_reset", "call"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what; `refuse` answers with an HTTP status in place of the server.
        at: after so many bytes of answers or, for `refuse`, requests of this load.
        path: where not empty, `at` counts from the first request for what begins so.
        bit: which bit of the byte to flip.
        status: to refuse with.
        call: what else to do at this moment.
    """

    kind: Kind
    at: int
    path: bytes = b""
    bit: int = 0
    status: int = 503
    call: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Script:
    """The faults of one load, and how far it has come."""

    faults: list[Fault] = field(default_factory=list)
    fired: int = 0
    _answered: int = 0
    _requests: int = 0

    def split(self, piece: bytes) -> tuple[bytes, Fault | None]:
        """How much of a piece of an answer is let through before which fault, if any."""
        due = min(
            (fault for fault in self.faults if fault.kind != "refuse" and not fault.path),
            key=lambda fault: fault.at,
            default=None,
        )
        if due is None or self._answered + len(piece) <= due.at:
            self._answered += len(piece)
            return piece, None
        self._fire(due)
        kept = piece[: max(due.at - self._answered, 0)]
        self._answered += len(kept)
        return kept, due

    def refusal(self, piece: bytes) -> Fault | None:
        """Whether the request that begins with this piece is refused."""
        if not piece.startswith(REQUESTS):
            return None
        self._requests += 1
        self.faults = [self._located(fault, piece) for fault in self.faults]
        due = next((fault for fault in self.faults if fault.kind == "refuse"), None)
        if due is None or self._requests <= due.at:
            return None
        self._fire(due)
        return due

    def _located(self, fault: Fault, request: bytes) -> Fault:
        if not fault.path or not request.startswith(b"GET /" + fault.path):
            return fault
        return replace(fault, path=b"", at=self._answered + fault.at)

    def _fire(self, fault: Fault) -> None:
        self.faults.remove(fault)
        self.fired += 1


class FaultProxy:
    """Forwards from a port of its own to `upstream`, in a thread of its own."""

    def __init__(self) -> None:
        self.upstream = 0
        self.script = Script()
        self._relay = Relay("fault-proxy", there=self._ask, back=self._answer)
        self.port = self._relay.listen(lambda: self.upstream)

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._relay.close()

    async def _ask(self, near: socket.socket, far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(near, PIECE_BYTES):
            refused = self.script.refusal(piece)
            if refused:
                head = f"HTTP/1.1 {refused.status} Fault\r\nContent-Length: 0\r\n"
                await loop.sock_sendall(near, f"{head}Connection: close\r\n\r\n".encode())
                break
            await loop.sock_sendall(far, piece)
        raise ConnectionError("the client is done")

    async def _answer(self, far: socket.socket, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(far, PIECE_BYTES):
            while piece:
                kept, fault = self.script.split(piece)
                await loop.sock_sendall(near, kept)
                piece = piece[len(kept) :]
                if fault:
                    piece = await self._break(fault, near, piece)
        raise ConnectionError("the server is done")

    async def _break(self, fault: Fault, near: socket.socket, rest: bytes) -> bytes:
        """Do it; what is left to send if the connection goes on."""
        fault.call()
        if fault.kind in ("reset", "call_and_reset"):
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            raise ConnectionError("reset")
        if fault.kind == "truncate":
            raise ConnectionError("truncated")
        if fault.kind == "stall":
            await asyncio.Event().wait()
        if fault.kind == "flip":
            return bytes([rest[0] ^ (1 << fault.bit)]) + rest[1:]
        if fault.kind == "dribble":
            return await self._dribble(near, rest)
        return rest

    async def _dribble(self, near: socket.socket, rest: bytes) -> bytes:
        slow, rest = rest[:DRIBBLE_TOTAL_BYTES], rest[DRIBBLE_TOTAL_BYTES:]
        for first in range(0, len(slow), DRIBBLE_BYTES):
            await asyncio.sleep(DRIBBLE_S)
            await asyncio.get_running_loop().sock_sendall(near, slow[first : first + DRIBBLE_BYTES])
        return rest
