"""What requests bring beside their bodies: it has a limit, whoever sends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.clients import MB, answer_on, ask, dial, eventually, growth_below, head, pour

CHUNKED = "Transfer-Encoding: chunked"
LAST_CHUNK = b"0\r\n"
TRAILER = b"A: b\r\n" * 10_000
HEALTH = head("GET", "/healthz", CHUNKED)
PUT = head("PUT", "/k", CHUNKED, token="token-a")


@pytest.fixture(scope="module")
def shared(serve, tmp_path_factory: pytest.TempPathFactory, two_tenants) -> Iterator:
    folder = tmp_path_factory.mktemp("served")
    options = ("--store", folder / "store", "--tenants", two_tenants)
    with serve(*options, errors=folder / "log") as server:
        ask(server, head("PUT", "/warm", "Content-Length: 1", token="token-a") + b"x")
        yield server
    assert (folder / "log").read_text() == ""  # strangers write no log


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (HEALTH + LAST_CHUNK, TRAILER),
        (PUT + LAST_CHUNK, TRAILER),
        (PUT + b"1\r\nx\r\n" + LAST_CHUNK + b"Long: ", b"x" * 60_000),
        (PUT + b"1;", b"x" * 60_000),
        (PUT, b"1\r\nx\r\n" * 10_000),
        (PUT, b"1;" + b"x" * 20_000 + b"\r\nx\r\n"),
        (b"", b"\r\n" * 30_000),
        (b"GET / HTTP/1.1\r\nLong: ", b"x" * 60_000),
        (b"GET / HTTP/1.1\r\n", TRAILER),
        (b"GET /", b"x" * 60_000),
        (b"", head("GET", "/~/list", token="token-a") * 1000),
        (head("GET", "/k", "Connection: Upgrade", "Upgrade: x"), b"x" * 60_000),
    ],
    ids=[
        "trailers of a stranger",
        "trailers",
        "a long trailer",
        "a long extension",
        "small chunks",
        "extensions",
        "empty lines",
        "a long header",
        "headers",
        "a long path",
        "requests that do not wait",
        "another protocol",
    ],
)
def test_without_end_it_ends_the_connection(shared, begun: bytes, piece: bytes) -> None:
    """Before, 89 MB of trailers without a token took 2.1 GiB of memory."""
    with growth_below(shared, 8), dial(shared) as connection:
        connection.sendall(begun)
        # Cut after 64 KiB; the rest is in the buffers of the two systems.
        assert pour(connection, piece, max_bytes=64 * MB) < 16 * MB
    assert ask(shared, head("GET", "/healthz")) == b"HTTP/1.1 200 OK"


def test_one_packet_of_many_requests(shared) -> None:
    with growth_below(shared, 8), dial(shared) as connection:
        connection.sendall(head("GET", "/~/list", token="token-a") * 3000)
        assert pour(connection, b"x", max_bytes=1000) < 1000 or answer_on(connection) == b""


def test_too_many_headers(shared) -> None:
    lines = [f"A{number}: b" for number in range(120)]
    assert ask(shared, head("GET", "/healthz", *lines)) == b"HTTP/1.1 200 OK"
    assert ask(shared, head("GET", "/healthz", *lines, *lines)) != b"HTTP/1.1 200 OK"


def test_chunks_that_are_used_take_as_much_as_they_need(shared) -> None:
    """40,000 chunks of 200 bytes, as from a client that writes what it has, and a trailer."""
    with dial(shared) as connection:
        connection.sendall(head("PUT", "/chunks", CHUNKED, token="token-a"))
        for _ in range(40):
            connection.sendall((b"c8\r\n" + bytes(200) + b"\r\n") * 1000)
        connection.sendall(LAST_CHUNK + b"Digest: abc\r\n\r\n")
        assert answer_on(connection) == b"HTTP/1.1 201 Created"


def test_a_trailer_is_no_header(shared) -> None:
    """What comes behind a body cannot say who asks, nor anything else."""
    body = b"1\r\nx\r\n" + LAST_CHUNK + b"Authorization: Bearer token-a\r\n\r\n"
    assert ask(shared, head("PUT", "/behind", CHUNKED) + body).startswith(b"HTTP/1.1 401 ")
    assert eventually(
        lambda: ask(shared, head("HEAD", "/behind", token="token-a")).startswith(b"HTTP/1.1 404 ")
    )


@pytest.mark.parametrize("sent", [b"no request\r\n\r\n", head("GET", "/%ff%0a"), b"\x16\x03\x01"])
def test_what_is_no_request(shared, sent: bytes) -> None:
    assert ask(shared, sent)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 401", b"")
