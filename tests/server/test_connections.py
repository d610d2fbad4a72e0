"""Clients that come in crowds, and clients that never get to the point."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import urllib3
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from cachegen.errors import StoreError
from cachegen.server.admission import Admission
from cachegen.server.connections import LimitedConnection, connection_of
from cachegen.server.limits import Limits
from cachegen.server.listener import Listener
from tests.server.clients import MB, asking_slowly, dial, ended, eventually

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


HASTY = Limits(head_s=0.3, patience_s=0.5)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Without a look at the body or at who asks; slowly where asked for."""
    if scope["path"] != "/stranger":
        connection_of(scope).claim("anybody")
    await asyncio.sleep(0.6 if scope["path"] == "/slow" else 0)
    said = "ok" if scope["path"] != "/large" else "ok" * 10 * MB
    await PlainTextResponse(said)(scope, receive, send)


@contextlib.asynccontextmanager
async def served(**options: int) -> AsyncIterator[tuple[tuple[str, int], Admission]]:
    """The address of a server of such connections, and who is there."""
    config = uvicorn.Config(answer, lifespan="off", log_config=None, **options)
    state, admission = ServerState(), Admission(4)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(
            listening,
            lambda: LimitedConnection(config, state, {}, limits=HASTY, admission=admission),
            tls=None,
            limits=HASTY,
            newcomers=admission.newcomers,
        )
        yield listening.getsockname(), admission
        async with asyncio.timeout(5):
            while len(admission):
                await asyncio.sleep(0.01)
        listener.close()
        await listener.wait_closed()


@contextlib.asynccontextmanager
async def connected(**options: int) -> AsyncIterator[Streams]:
    """A connection to such a server."""
    async with served(**options) as (address, _):
        reader, writer = await asyncio.open_connection(*address)
        yield reader, writer
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server has closed the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            while piece := await reader.read(65536):
                found += piece
    return found


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nHalf"])
def test_a_head_that_does_not_come(sent: bytes) -> None:
    async def run() -> None:
        async with connected() as (reader, writer):
            writer.write(sent)
            began_s = time.monotonic()
            assert await rest(reader) == b""
            assert 0.2 < time.monotonic() - began_s < 3

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"\r\n", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\nHalf"])
def test_a_second_head_that_does_not_come(sent: bytes) -> None:
    async def run() -> None:
        async with connected(timeout_keep_alive=60) as (reader, writer):
            writer.write(GET)
            await reader.readuntil(b"ok")
            writer.write(sent)
            assert await rest(reader) == b""

    asyncio.run(run())


def test_a_head_that_trickles() -> None:
    async def run() -> None:
        async with connected() as (reader, writer):
            reading = asyncio.ensure_future(rest(reader))
            for byte in GET:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
                if reading.done():
                    break
            assert await reading == b""

    asyncio.run(run())


def test_a_head_without_end() -> None:
    async def run() -> None:
        async with connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nLong: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(bytes(65536).replace(b"\0", b"x"))
                    await writer.drain()
                pytest.fail("64 MB of head were taken")
            assert ANSWER not in await rest(reader)

    asyncio.run(run())


def test_requests_may_take_longer_than_their_heads() -> None:
    async def run() -> None:
        async with connected() as (reader, writer):
            for _ in range(2):
                writer.write(GET.replace(b"/ ", b"/slow "))
                assert (await reader.readuntil(b"ok")).startswith(ANSWER)

    asyncio.run(run())


def test_a_refused_body_is_not_taken_for_ever() -> None:
    async def run() -> None:
        async with connected(timeout_keep_alive=60) as (reader, writer):
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(ANSWER)
            reading = asyncio.ensure_future(rest(reader))
            for _ in range(100):
                writer.write(b"x")
                await asyncio.sleep(0.05)
                if reading.done():
                    return
            pytest.fail("the server goes on reading")

    asyncio.run(run())


@pytest.mark.parametrize("more", [b"", GET, b"no request\r\n\r\n"])
@pytest.mark.parametrize("line", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_not_taken(more: bytes, line: bytes) -> None:
    """Not even where the server has nothing more to say, or has closed the connection."""

    async def run() -> None:
        async with served(timeout_keep_alive=60) as (address, admission):
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                deaf.connect(address)
                deaf.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n")
                await asyncio.sleep(0.1)
                deaf.sendall(more)
                assert len(admission) == 1
                async with asyncio.timeout(3):
                    while len(admission):
                        await asyncio.sleep(0.01)

    asyncio.run(run())


def test_who_shows_no_token_is_gone_soon() -> None:
    """Answers without a token, such as a health probe's, do not prolong it."""

    async def run() -> None:
        async with connected(timeout_keep_alive=60) as (reader, writer):
            reading, began_s = asyncio.ensure_future(rest(reader)), time.monotonic()
            while not reading.done() and time.monotonic() - began_s < 3:
                writer.write(GET.replace(b"/ ", b"/stranger "))
                await asyncio.sleep(0.05)
            assert 0.2 < time.monotonic() - began_s < 3
            assert (await reading).count(ANSWER) > 1

    asyncio.run(run())


def test_a_connection_too_many(serve, tmp_path: Path) -> None:
    """One of two is for newcomers, of whom the last one has it; the other one is busy."""
    with serve("--store", tmp_path, "--max-connections", 2) as server:
        server.client().put("k", bytes(20 * MB))
        with asking_slowly(server, "/k") as busy:
            busy.recv(1)
            with dial(server) as silent:
                refused = urllib3.request("GET", f"{server.url}/k", retries=False)
                assert refused.status == 503
                assert refused.json()["error"] == "too many connections: try again later"
                assert ended(silent, within_s=5)
            with pytest.raises(StoreError, match="too many connections"):
                server.client().lookup(["k"])
            assert urllib3.request("GET", f"{server.url}/healthz", retries=False).status == 200
        assert eventually(lambda: urllib3.request("GET", f"{server.url}/k").status == 200)
