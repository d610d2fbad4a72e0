"""What connections leave in a server's memory, while they are open and after they have ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import ssl
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import trustme
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from cachegen.server.admission import Admission
from cachegen.server.connections import LimitedConnection, connection_of
from cachegen.server.limits import Limits
from cachegen.server.listener import Listener
from tests.server.clients import MB, dial, eventually, head, small_socket, speaking

CONNECTIONS = 40
V13 = ssl.TLSVersion.TLSv1_3
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_A_HANDSHAKE = bytes([22, 3, 1, 2, 0, 1])
SENT = [GET, 3 * GET, 3 * GET.replace(b"/ ", b"/slow "), GET[:9], HALF_A_HANDSHAKE, b"no\r\n\r\n"]
# Free memory goes back every three seconds.
GIVEN_BACK_S = 10.0


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request, serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    folder = tmp_path_factory.mktemp("served")
    leaf = trustme.CA().issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    tls = ("--tls-cert", folder / "chain.pem", "--tls-key", folder / "key.pem")
    with serve("--store", folder / "store", *(tls if request.param == "tls" else ())) as started:
        connection = connect(started)
        assert answer(connection, put("/object")) == 201
        connection.close()
        yield started


def connect(server, *, deaf: bool = False) -> socket.socket:
    connection = small_socket(server) if deaf else dial(server)
    return speaking(V13, V13).wrap_socket(connection) if "https" in server.url else connection


def put(path: str, *, size_bytes: int = MB) -> bytes:
    return head("PUT", path, f"Content-Length: {size_bytes}") + bytes(size_bytes)


def answer(connection: socket.socket, sent: bytes) -> int:
    """Send a request and take its answer; the status."""
    connection.sendall(sent)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    said, _, body = received.partition(b"\r\n\r\n")
    size = re.search(rb"content-length: (\d+)", said)
    left_bytes = (int(size.group(1)) if size else 0) - len(body)
    while left_bytes > 0:
        left_bytes -= len(connection.recv(MB))
    return int(said.split()[1])


def exchange(numbered: tuple[int, socket.socket]) -> None:
    """Get a megabyte, put one."""
    number, connection = numbered
    assert answer(connection, head("GET", "/object")) == 200
    assert answer(connection, put(f"/of/{number}")) in (201, 412)


def rss_mb(server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024 / MB


def times_open(server, name: str) -> int:
    """How often a server has a file of this name open."""
    found = 0
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += Path(os.readlink(descriptor)).name == name
    return found


def settled_mb(server) -> float:
    """What a server takes when it has given back what it can: little more than at its start."""
    assert eventually(lambda: rss_mb(server) < 70, within_s=GIVEN_BACK_S)
    return rss_mb(server)


@contextmanager
def used_connections(server) -> Iterator[None]:
    """Connections that have moved two megabytes each, and do nothing now."""
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        opened = [stack.enter_context(connect(server)) for _ in range(CONNECTIONS)]
        list(pool.map(exchange, enumerate(opened)))
        yield


def test_connections_that_are_used_and_closed(server) -> None:
    """Before, each of them kept a megabyte by TLS, of which the process gave nothing back."""
    with used_connections(server):
        pass
    before_mb = settled_mb(server)
    for _ in range(4):
        with used_connections(server):
            pass
    assert eventually(lambda: rss_mb(server) < before_mb + 6, within_s=GIVEN_BACK_S)


def test_connections_that_are_used_and_kept(server) -> None:
    """By TLS a third of a megabyte each; before, one and more."""
    before_mb = settled_mb(server)
    with used_connections(server):
        most_mb = before_mb + CONNECTIONS * (0.5 if "https" in server.url else 0.1)
        assert eventually(lambda: rss_mb(server) < most_mb, within_s=GIVEN_BACK_S)


def test_connections_that_take_nothing(server) -> None:
    """By TLS 1.4 MB each, or 1.3: a piece of the store's, and what waits to be sent."""
    with closing(connect(server)) as connection:
        assert answer(connection, put("/large", size_bytes=10 * MB)) == 201
    before_mb = settled_mb(server)
    with ExitStack() as stack:
        for _ in range(20):
            deaf = stack.enter_context(connect(server, deaf=True))
            deaf.sendall(head("GET", "/large"))
        assert eventually(lambda: times_open(server, "large") == 20)
        time.sleep(0.3)
        assert rss_mb(server) < before_mb + 20 * 1.7


async def serve_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who has claimed a connection."""
    connection_of(scope).claim("anybody")
    await asyncio.sleep(0.3 if scope["path"] == "/slow" else 0)
    await PlainTextResponse("ok")(scope, receive, send)


async def left_of(sent: bytes, *, tls: ssl.SSLContext | None, trust: ssl.SSLContext | None) -> int:
    """Of connections that have ended, how many are there still; nothing collects cycles."""
    config = uvicorn.Config(serve_once, lifespan="off", log_config=None)
    made: weakref.WeakSet[LimitedConnection] = weakref.WeakSet()
    limits, admission = Limits(head_s=0.3, patience_s=0.5), Admission(8)

    def make() -> LimitedConnection:
        connection = LimitedConnection(config, state, {}, limits=limits, admission=admission)
        made.add(connection)
        return connection

    state = ServerState()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(listening, make, tls=tls, limits=limits, newcomers=admission.newcomers)
        for _ in range(5):
            address = listening.getsockname()
            reader, writer = await asyncio.open_connection(*address, ssl=trust)
            writer.write(sent)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(0.1):
                    await reader.read(1000)
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()
        async with asyncio.timeout(5):
            while len(admission):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        listener.close()
        await listener.wait_closed()
    return len(made)


@pytest.mark.parametrize("speaks", ["plain", "tls", "plain to tls"])
@pytest.mark.parametrize("sent", SENT, ids=range(len(SENT)))
def test_nothing_is_left_of_a_connection(speaks: str, sent: bytes) -> None:
    """Its buffers would be there until Python collects cycles of old objects: after hours."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(theirs)
    tls = None if speaks == "plain" else theirs
    gc.collect()
    gc.disable()
    try:
        trust = speaking(V13, V13) if speaks == "tls" else None
        assert asyncio.run(left_of(sent, tls=tls, trust=trust)) == 0
    finally:
        gc.enable()
