"""Strangers and tenants that take what they can get of a server, and what others notice of it."""

from __future__ import annotations

import hashlib
import hmac
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from cachegen.server.tenants import Tenant, Tenants
from cachegen.store import read
from tests.server.clients import (
    MB,
    answer_on,
    ask,
    asking_slowly,
    dial,
    dribble,
    ended,
    eventually,
    files_of,
    growth_below,
    head,
)

CONTINUE = b"HTTP/1.1 100"
HEALTH = head("GET", "/healthz")
METRICS = head("GET", "/metrics", token="token-a")
OK = b"HTTP/1.1 200 OK"
CONNECTIONS = 24  # of which 3 are reserved; each of two tenants has 10


@pytest.fixture(scope="module")
def shared(serve, tmp_path_factory: pytest.TempPathFactory, two_tenants) -> Iterator:
    folder = tmp_path_factory.mktemp("served")
    options = ("--store", folder, "--tenants", two_tenants, "--max-object-mb", 20)
    limits = {"head_s": 2.0, "patience_s": 1.0}
    with serve(*options, "--max-connections", CONNECTIONS, limits=limits) as server:
        server.client("token-a").put("k", bytes(100))
        yield server


def begun(stack: ExitStack, server, sent: bytes):
    """A connection on which something was sent."""
    connection = stack.enter_context(dial(server))
    connection.sendall(sent)
    return connection


def test_strangers_keep_nobody_out(shared) -> None:
    """Before, as many silent connections as were allowed kept out tenants and health probes."""
    with ExitStack() as stack, growth_below(shared, 8):
        before = files_of(shared)
        for number in range(3 * CONNECTIONS):
            begun(stack, shared, b"GET /healthz HTT" if number % 2 else b"")
        assert ask(shared, HEALTH) == ask(shared, METRICS) == OK
        assert read(shared.client("token-a"), "k") == bytes(100)
        assert eventually(lambda: files_of(shared) <= before + CONNECTIONS)


def test_a_tenant_keeps_nobody_out(shared) -> None:
    """It has more uploads under way than it may have connections, declared and undeclared."""
    lines = ("Content-Length: 100000", "Transfer-Encoding: chunked")
    with ExitStack() as stack:
        for number in range(3 * CONNECTIONS):
            put = head("PUT", f"/{number}", lines[number % 2], token="token-b")
            connection = begun(stack, shared, put)
        assert answer_on(connection).startswith(b"HTTP/1.1 503 ")
        a = shared.client("token-a")
        assert read(a, "k") == bytes(100)
        assert a.put("crowd/large", bytes(15 * MB))
        assert ask(shared, HEALTH) == ask(shared, METRICS) == OK
    a.delete("crowd/large")


@pytest.mark.parametrize("line", ["Content-Length: 4900000", "Transfer-Encoding: chunked"])
def test_uploads_that_do_not_come(shared, line: str) -> None:
    """Before, four of one tenant kept all tenants from uploading, for as long as it liked."""
    with ExitStack() as stack:
        sent = [head("PUT", f"/{n}", line, "Expect: 100-continue", token="token-b") for n in "1234"]
        connections = [begun(stack, shared, put) for put in sent]
        answers = [answer_on(connection) for connection in connections]
        assert sorted(answer[:12] for answer in answers) == [CONTINUE, *[b"HTTP/1.1 503"] * 3]
        assert shared.client("token-a").put("uploads/large", bytes(15 * MB))
        shared.client("token-a").delete("uploads/large")
        (taken,) = (c for c, a in zip(connections, answers, strict=True) if a[:12] == CONTINUE)
        assert dribble(taken, b"1\r\nx\r\n", within_s=5) < 4
    assert eventually(lambda: shared.client("token-b").put("after", bytes(MB)))
    shared.client("token-b").delete("after")


def test_an_upload_without_a_size_ends_with_the_quota(shared) -> None:
    with dial(shared) as connection:
        connection.sendall(head("PUT", "/endless", "Transfer-Encoding: chunked", token="token-b"))
        chunk, answer = b"10000\r\n" + bytes(65536) + b"\r\n", b""
        for _ in range(100):
            try:
                connection.sendall(chunk)
            except OSError:
                break
        answer = answer_on(connection)
    assert answer in (b"HTTP/1.1 507 Insufficient Storage", b"")
    assert shared.client("token-b").lookup(["endless"]) == [None]


def test_lookups_that_do_not_come(shared) -> None:
    """Before, they held their connections for as long as their clients liked."""
    sent = head("POST", "/~/lookup", "Content-Length: 2000000", token="token-b")
    with ExitStack() as stack, growth_below(shared, 8):
        bodies = [b"", b'{"keys": ['] * (CONNECTIONS // 2)
        connections = [begun(stack, shared, sent + body) for body in bodies]
        assert shared.client("token-a").lookup(["k"]) == [100]
        began_s = time.monotonic()
        assert all(ended(connection, within_s=4) for connection in connections)
        assert time.monotonic() - began_s < 4


def test_lookups_take_no_more_memory_than_their_room(shared) -> None:
    """Eight of 2 MB, each of which becomes 50 MB of objects when it is parsed: not 400 at once."""
    body = b'{"keys": [' + b"{}," * 650_000 + b"{}]}"
    lookup = head("POST", "/~/lookup", f"Content-Length: {len(body)}", token="token-b") + body
    with growth_below(shared, 150), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda sent: ask(shared, sent), [lookup] * 8))
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 400", b"HTTP/1.1 503"}


def test_an_object_that_is_taken_byte_by_byte(shared) -> None:
    shared.client("token-a").put("slow", bytes(19 * MB))
    before = files_of(shared)
    with asking_slowly(shared, "/slow", token="token-a") as connection:
        assert connection.recv(100)
        assert eventually(lambda: files_of(shared) > before)
        began_s = time.monotonic()
        while files_of(shared) > before and time.monotonic() - began_s < 8:
            connection.recv(10)
            time.sleep(0.05)
        assert time.monotonic() - began_s < 8
    shared.client("token-a").delete("slow")


def test_who_writes_steadily_is_not_cut(shared) -> None:
    """At twice the least rate, for longer than the patience; again where this machine is slow."""

    def put() -> bytes:
        with dial(shared) as connection:
            connection.sendall(head("PUT", "/steady", f"Content-Length: {MB}", token="token-a"))
            for _ in range(20):
                connection.sendall(bytes(MB // 20))
                time.sleep(0.08)
            return answer_on(connection)

    assert any(put() == b"HTTP/1.1 201 Created" for _ in range(4))
    shared.client("token-a").delete("steady")


def test_wrong_tokens_are_answered_late(shared) -> None:
    def elapsed_s(token: str) -> float:
        began_s = time.monotonic()
        assert ask(shared, head("GET", "/k", token=token)).startswith(b"HTTP/1.1 401 ")
        return time.monotonic() - began_s

    assert min(elapsed_s("wrong") for _ in range(3)) >= 0.2
    assert min(elapsed_s("") for _ in range(3)) < 0.2  # no attempt


def test_a_wrong_token_waits_and_others_do_not(shared) -> None:
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            begun(stack, shared, head("GET", "/k", token="wrong"))
        assert read(shared.client("token-a"), "k") == bytes(100)


def test_every_token_is_compared_with_every_tenant_s(monkeypatch) -> None:
    """However much of it is right, and whosever it is: the time tells nothing."""
    digests = [hashlib.sha256(token).digest() for token in (b"first", b"second", b"third")]
    tenants = Tenants(
        tuple(Tenant(str(n), token_sha256=digest) for n, digest in enumerate(digests))
    )
    compared, compare = [], hmac.compare_digest

    def noting(ours: bytes, theirs: bytes) -> bool:
        compared.append(ours)
        return compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    for token in ("first", "third", "firs", "", "x" * 10_000):
        tenants.find(f"Bearer {token}")
        assert compared == digests
        compared.clear()


def from_another_address(server, sent: bytes) -> bytes:
    """The first line of an answer to a client at 127.0.0.2; empty where it is hung up on."""
    host, _, port = server.host.partition(":")
    try:
        with socket.create_connection((host, int(port)), 10, ("127.0.0.2", 0)) as connection:
            connection.sendall(sent)
            return answer_on(connection)
    except OSError:
        return b""


def test_tokens_are_tried_a_few_hundred_times(serve, two_tenants, tmp_path: Path) -> None:
    """Before, as fast as connections could be opened; each is a handshake too, by TLS."""
    limits = {"refusal_s": 0.0}
    with serve("--store", tmp_path, "--tenants", two_tenants, limits=limits) as server:
        began_s, answers = time.monotonic(), Counter[bytes]()
        for _ in range(600):
            answers[from_another_address(server, head("GET", "/k", token="guess"))[:12]] += 1
        most = 256 + 20 * (time.monotonic() - began_s) + 1
        assert set(answers) == {b"HTTP/1.1 401", b""}
        assert 256 <= answers[b"HTTP/1.1 401"] <= most < 600
        assert server.client("token-b").put("k", b"1")  # from an address of its own
        assert eventually(
            lambda: from_another_address(server, head("GET", "/k", token="token-b")) == OK
        )
        whom = [from_another_address(server, HEALTH) for _ in range(300)]
        assert whom == [OK] * 300  # a tenant is there
