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
from cachegen.server.connections import LimitedConnection

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Hasty(LimitedConnection):
    head_s = 0.3


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Without a look at the body; slowly where asked for."""
    await asyncio.sleep(0.6 if scope["path"] == "/slow" else 0)
    await PlainTextResponse("ok")(scope, receive, send)


@contextlib.asynccontextmanager
async def connected(**options: int) -> AsyncIterator[Streams]:
    """A connection to a server of such connections."""
    config = uvicorn.Config(answer, http=Hasty, lifespan="off", log_config=None, **options)
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Hasty(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with server:
        yield reader, writer
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    async with asyncio.timeout(5):
        while state.connections:
            await asyncio.sleep(0.01)


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


def test_a_connection_too_many(serve, tmp_path: Path) -> None:
    with serve("--store", tmp_path, "--max-connections", 2) as server:
        host, _, port = server.host.partition(":")
        client = server.client()
        client.put("k", b"1")
        with socket.create_connection((host, int(port)), timeout=5):
            refused = urllib3.request("GET", f"{server.url}/k", retries=False)
            assert (refused.status, refused.json()["error"][:20]) == (503, "too many connections")
            with pytest.raises(StoreError, match="too many connections"):
                server.client().lookup(["k"])
            assert client.lookup(["k"]) == [1]
        give_up_s = time.monotonic() + 5
        while urllib3.request("GET", f"{server.url}/k", retries=False).status != 200:
            assert time.monotonic() < give_up_s
