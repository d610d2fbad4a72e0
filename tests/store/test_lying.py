"""Clients of stores against servers that lie: what an answer may cost, in bytes and seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from cachegen.errors import CacheGenError, StoreError, StoreTimeout
from cachegen.store import Store, open_store, read
from cachegen.store.protocol import Hangup, interruptible
from tests.hostile import MIB, Server, lying, measured
from tests.store.buckets import use

TIMEOUT_S = 0.3
# Of clients, beyond the most that they read: 64 KiB of HTTP, 4 MiB of Redis in objects of Python.
LIMITS = {"cachegen": 4 * MIB, "http": 4 * MIB, "redis": 80 * MIB}
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FAILED = b"HTTP/1.1 500 No\r\n\r\n"
BLOCK = b"a" * 65_536
KEYS = [f"k/{number}" for number in range(20)]

VERBS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: b"".join(store.get("k", (0, 10))),
    "lookup": lambda store: store.lookup(KEYS),
    "list": lambda store: list(store.list()),
    "put": lambda store: store.put("k", b"1"),
    "delete": lambda store: store.delete("k"),
}
# What is sent once, and then again and again.
HTTP: dict[str, tuple[bytes, bytes]] = {
    "status": (b"HTTP/1.1 200 ", BLOCK),
    "header": (OK + b"A: ", BLOCK),
    "headers": (OK, b"A: b\r\n" * 10_000),
    "continue": (b"", b"HTTP/1.1 100 Go on\r\n\r\n" * 3_000),
    "failure": (FAILED, BLOCK),
    "body": (OK + b"\r\n", BLOCK),
    "length": (OK + b"Content-Length: 999999999999\r\n\r\n", BLOCK),
    "chunks": (CHUNKED, b"1\r\na\r\n" * 10_000),
    "chunk": (CHUNKED + b"ffffffffff\r\n", BLOCK),
    "chunk size": (CHUNKED, b"0" * 65_536),
    "extension": (CHUNKED + b"1;", BLOCK),
    "trailer": (CHUNKED + b"0\r\n", b"A: b\r\n" * 10_000),
    "keys": (OK + b"\r\n", b"k" * 65_536),
}
REDIS: dict[str, tuple[bytes, bytes]] = {
    "string": (b"$999999999999\r\n", BLOCK),
    "line": (b"+", BLOCK),
    "error": (b"-", BLOCK),
    "array": (b"*999999999999\r\n", b"*0\r\n" * 16_000),
    "nested": (b"", b"*1\r\n" * 16_000),
    "pushes": (b"", b">1\r\n+a\r\n" * 8_000),
    "numbers": (b"*99999999\r\n", b":1\r\n" * 16_000),
}


def fails(store: Store, verb: str) -> None:
    with pytest.raises(CacheGenError) as failure:
        VERBS[verb](store)
    assert len(str(failure.value)) < 600


SLOW = pytest.mark.slow  # by the functions that the other scheme reads with


@pytest.mark.parametrize("answer", HTTP)
@pytest.mark.parametrize("scheme", ["cachegen", pytest.param("http", marks=SLOW)])
def test_endless_answers_over_http(scheme: str, answer: str) -> None:
    first, rest = HTTP[answer]
    pour_endlessly(scheme, first, rest, verbs=("get", "lookup"))


@pytest.mark.slow  # other verbs, whose answers are read by the same function
@pytest.mark.parametrize("answer", HTTP)
def test_endless_answers_to_other_verbs(answer: str) -> None:
    first, rest = HTTP[answer]
    pour_endlessly("cachegen", first, rest, verbs=("list", "put", "delete"))


@pytest.mark.parametrize("answer", REDIS)
def test_endless_answers_of_redis(answer: str) -> None:
    first, rest = REDIS[answer]
    pour_endlessly("redis", first, rest, verbs=("lookup",))


def pour_endlessly(scheme: str, first: bytes, rest: bytes, *, verbs: tuple[str, ...]) -> None:
    """Whatever is asked ends, having taken little; every connection of it is closed then."""

    def pour(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        server.pour(connection, rest)

    with lying(pour) as server:
        store = open_store(f"{scheme}://{server.host}", timeout_s=TIMEOUT_S)
        for verb in verbs:
            if (scheme, first, verb) == ("http", HTTP["length"][0], "lookup"):
                continue  # HEAD, which has no body; who gets the object sees what it is
            with measured() as cost:
                fails(store, verb)
            assert cost.num_bytes < LIMITS[scheme], verb
            assert cost.seconds < 10.0 + 4 * TIMEOUT_S, verb  # two attempts, and parsing 4 MiB
            server.await_end(1.0)


SLOW = {
    "cachegen": (b"HTTP/1.1 200 OK", FAILED, OK + b"\r\n"),
    "http": (b"HTTP/1.1 200 OK", CHUNKED + b"0\r\nA: "),
    "redis": (b"+OK", b"$100000\r\n"),
}


@pytest.mark.parametrize(("scheme", "first"), [(s, first) for s in SLOW for first in SLOW[s]])
def test_answers_that_dribble(scheme: str, first: bytes) -> None:
    """Each byte comes in time, and the answer does not."""

    def dribble(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        server.pour(connection, b"a", pause_s=0.02)

    with lying(dribble) as server:
        store = open_store(f"{scheme}://{server.host}", timeout_s=TIMEOUT_S)
        with measured() as cost, pytest.raises(StoreError):
            store.lookup(KEYS)
        assert cost.seconds < 1.0 + 4 * TIMEOUT_S
        server.await_end(1.0)


def test_a_body_may_take_as_long_as_it_likes_and_the_reader_wants() -> None:
    def dribble(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(OK + b"Content-Length: 20\r\n\r\n")
        server.pour(connection, b"a", pause_s=0.02)

    with lying(dribble) as server:
        pieces = open_store(f"cachegen://{server.host}", timeout_s=TIMEOUT_S).get("k")
        assert b"".join(pieces) == b"a" * 20


RANGES = {
    "another": b"206 X\r\nContent-Range: bytes 20-29/100\r\nContent-Length: 10\r\n\r\n" + b"a" * 10,
    "longer": b"206 X\r\nContent-Range: bytes 10-29/100\r\nContent-Length: 20\r\n\r\n" + b"a" * 20,
    "shorter": b"206 X\r\nContent-Range: bytes 10-15/100\r\nContent-Length: 6\r\n\r\naaaaaa",
    "none": b"206 X\r\nContent-Length: 10\r\n\r\n" + b"a" * 10,
    "odd": b"206 X\r\nContent-Range: bytes 10-19/5\r\nContent-Length: 10\r\n\r\n" + b"a" * 10,
    "whole": b"200 X\r\nContent-Length: 100\r\n\r\n" + b"a" * 100,
    "whole and short": b"200 X\r\nContent-Length: 5\r\n\r\naaaaa",
    "more": b"206 X\r\nContent-Range: bytes 10-19/100\r\n\r\n" + b"a" * 11,
    "fewer": b"206 X\r\nContent-Range: bytes 10-19/100\r\n\r\n" + b"a" * 9,
    "other length": b"206 X\r\nContent-Range: bytes 10-19/100\r\nContent-Length: 11\r\n\r\n"
    + b"a" * 11,
    "encoded": b"206 X\r\nContent-Range: bytes 10-19/100\r\nContent-Encoding: gzip\r\n\r\n"
    + b"a" * 10,
}


@pytest.mark.parametrize("answer", RANGES)
def test_ranges_of_buckets_that_were_not_asked_for(answer: str, monkeypatch) -> None:
    head, blank, body = RANGES[answer].partition(b"\r\n\r\n")
    dated = head + b"\r\nLast-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\nETag: x" + blank + body
    with once(b"HTTP/1.1 " + dated) as server:
        use(monkeypatch, "s3", f"http://{server.host}")
        store = open_store("s3://bucket", timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match="get k"):
            b"".join(store.get("k", (10, 20)))


@pytest.mark.parametrize("answer", RANGES)
@pytest.mark.parametrize("scheme", ["cachegen", "http"])
def test_ranges_that_were_not_asked_for(scheme: str, answer: str) -> None:
    with once(b"HTTP/1.1 " + RANGES[answer]) as server:
        store = open_store(f"{scheme}://{server.host}", timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match="get k"):
            b"".join(store.get("k", (10, 20)))


@pytest.mark.parametrize("scheme", ["cachegen", "http"])
def test_a_part_where_the_whole_was_asked_for(scheme: str) -> None:
    part = b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-9/100\r\n\r\n" + b"a" * 10
    with once(part) as server:
        store = open_store(f"{scheme}://{server.host}", timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match="expected the whole object, got others"):
            read(store, "k")


def once(answer: bytes):
    def answer_once(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    return lying(answer_once)


ELSEWHERE = (
    "http://{host}:{other}/k",
    "https://{host}:{port}/k",
    "//localhost:{port}/k",
    "ftp://a/",
)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_redirects_lead_nowhere_else(place: str) -> None:
    """No request with credentials leaves for another server."""
    asked: list[bytes] = []

    def remember(server: Server, connection: socket.socket, request: bytes) -> None:
        asked.append(request)

    def redirect(server: Server, connection: socket.socket, _: bytes) -> None:
        host, _, port = server.host.partition(":")
        where = place.format(host=host, port=port, other=other.host.rpartition(":")[2])
        connection.sendall(
            f"HTTP/1.1 302 X\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    with lying(remember) as other, lying(redirect) as server:
        store = open_store(f"http://me:SECRET@{server.host}/", timeout_s=TIMEOUT_S)
        for verb in ("get", "lookup"):
            with pytest.raises(StoreError, match="another server") as failure:
                VERBS[verb](store)
            assert "SECRET" not in str(failure.value)
        tokens = open_store(f"cachegen://:SECRET@{server.host}", timeout_s=TIMEOUT_S)
        with pytest.raises(StoreError, match="status 302"):
            tokens.lookup(KEYS)
    assert not asked


def test_few_redirects_are_followed() -> None:
    paths: list[bytes] = []

    def redirect(server: Server, connection: socket.socket, request: bytes) -> None:
        path = request.split()[1]
        paths.append(path)
        if path == b"/there/k":
            connection.sendall(OK + b"Content-Length: 1\r\n\r\n1")
        else:
            where = b"/there/k" if path == b"/once/k" else b"/round/" + path
            connection.sendall(
                b"HTTP/1.1 307 X\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % where
            )

    with lying(redirect) as server:
        assert read(open_store(f"http://{server.host}/once"), "k") == b"1"
        paths.clear()
        with pytest.raises(StoreError, match="at most 3 redirects"):
            read(open_store(f"http://{server.host}/more"), "k")
    assert len(paths) == 4


@pytest.mark.parametrize("scheme", ["cachegen", "http"])
def test_proxies_of_the_environment_see_no_token(scheme: str, monkeypatch) -> None:
    asked: list[bytes] = []

    def remember(server: Server, connection: socket.socket, request: bytes) -> None:
        asked.append(request)

    def refuse(server: Server, connection: socket.socket, request: bytes) -> None:
        assert b"SECRET" in request or b"Basic" in request
        connection.sendall(b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n")

    with lying(remember) as proxy, lying(refuse) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
            monkeypatch.setenv(name.upper(), f"http://{proxy.host}")
        with pytest.raises(StoreError, match="look up"):
            open_store(f"{scheme}://me:SECRET@{server.host}", timeout_s=TIMEOUT_S).lookup(["k"])
    assert not asked


def silent(server: Server, connection: socket.socket, request: bytes) -> None:
    """Nothing comes, for as long as somebody waits."""
    with suppress(OSError):
        connection.recv(1)


def silent_in_the_body(server: Server, connection: socket.socket, request: bytes) -> None:
    connection.sendall(OK + b"Content-Length: 100000\r\n\r\n" + b"a" * 1000)
    silent(server, connection, request)


def silent_behind_the_sizes(server: Server, connection: socket.socket, request: bytes) -> None:
    if b"STRLEN" in request:
        connection.sendall(b":100000\r\n:1\r\n")
    elif b"GETRANGE" in request:
        silent(server, connection, request)
    else:
        connection.sendall(b"+OK\r\n" * request.count(b"*"))


@pytest.mark.parametrize(
    ("scheme", "handle"),
    [
        ("cachegen", silent),
        ("cachegen", silent_in_the_body),
        ("http", silent),
        ("http", silent_in_the_body),
        ("redis", silent),
        ("redis", silent_behind_the_sizes),
    ],
)
@pytest.mark.parametrize("verb", ["get", "lookup"])
def test_a_wait_ends_from_another_thread(scheme: str, handle, verb: str) -> None:
    with lying(handle) as server:
        store, hangup = open_store(f"{scheme}://{server.host}", timeout_s=20.0), Hangup()
        if verb == "lookup" and handle not in (silent,):
            return

        def wait() -> None:
            with hangup.heeded(), suppress(StoreError):
                read(store, "k") if verb == "get" else store.lookup(KEYS)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        hangup.end()
        waiting.join(1.0)
        assert not waiting.is_alive()
        server.await_end(1.0)


def test_what_was_given_up_waits_for_nothing_more() -> None:
    hangup, shut = Hangup(), []
    with hangup.heeded(), interruptible(lambda: shut.append("first")):
        hangup.end()
    assert shut == ["first"]
    given_up = pytest.raises(StoreError, match="given up")
    with hangup.heeded(), given_up, interruptible(lambda: shut.append("second")):
        shut.append("waited")
    with interruptible(lambda: shut.append("third")):
        hangup.end()
    assert shut == ["first"]


def test_listings_have_a_most(monkeypatch) -> None:
    def pour_keys(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(OK + b"\r\n")
        server.pour(connection, b"".join(b"k/%d\n" % number for number in range(5000)))

    monkeypatch.setattr("cachegen.store.remote.MAX_LISTED_KEYS", 20_000)
    with lying(pour_keys) as server:
        found = []
        with pytest.raises(StoreError, match="at most 20000 keys"):
            found.extend(open_store(f"cachegen://{server.host}").list())
        server.await_end(1.0)


def test_a_scan_that_leads_in_a_circle_ends(monkeypatch) -> None:
    def scan(server: Server, connection: socket.socket, request: bytes) -> None:
        if b"SCAN" in request:
            connection.sendall(b"*2\r\n$1\r\n7\r\n*1\r\n$10\r\ncachegen:k\r\n")
        else:
            connection.sendall(b"+OK\r\n" * request.count(b"*"))

    monkeypatch.setattr("cachegen.store.redis.LISTING_S", 0.3)
    with lying(scan) as server, measured() as cost, pytest.raises(StoreError, match="at most"):
        list(open_store(f"redis://{server.host}").list())
    assert cost.seconds < 2.0


def test_sizes_of_redis_that_are_none() -> None:
    def say(server: Server, connection: socket.socket, request: bytes) -> None:
        if b"STRLEN" in request:
            connection.sendall(b":-1\r\n:1\r\n")
        else:
            connection.sendall(b"+OK\r\n" * request.count(b"*"))

    with lying(say) as server, pytest.raises(StoreError, match="expected sizes"):
        open_store(f"redis://{server.host}").lookup(["k"])


def test_a_size_that_redis_only_claims_takes_no_memory() -> None:
    def claim(server: Server, connection: socket.socket, request: bytes) -> None:
        if b"STRLEN" in request:
            connection.sendall(b":%d\r\n:1\r\n" % 2**62)
        elif b"GETRANGE" in request:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(b"+OK\r\n" * request.count(b"*"))

    with lying(claim) as server, measured() as cost:
        store = open_store(f"redis://{server.host}", timeout_s=TIMEOUT_S)
        with pytest.raises((StoreError, StoreTimeout)):
            read(store, "k")
    assert cost.num_bytes < 8 * MIB and cost.seconds < 2.0
