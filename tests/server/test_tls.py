"""TLS: whom clients believe, what the server speaks, and handshakes that do not end."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from cachegen.errors import StoreError
from cachegen.store import read
from tests.server.clients import (
    MB,
    dial,
    ended,
    eventually,
    files_of,
    growth_below,
    head,
    small_socket,
    speaking,
)

CONNECTIONS = 8
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
# What begins a handshake: a record of 512 bytes, of which only the head comes.
HALF = bytes([22, 3, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@contextmanager
def serving_tls(
    serve, authority: trustme.CA, folder: Path, *names: str, started=None, **validity
) -> Iterator:
    certificate = authority.issue_cert(*(names or ("127.0.0.1",)), **validity)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    files = ("--tls-cert", folder / "chain.pem", "--tls-key", folder / "key.pem")
    options = ("--store", folder / "store", "--max-connections", CONNECTIONS)
    with serve(*options, *files, **(started or {})) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(serve, authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """One that waits for a handshake for a second."""
    folder = tmp_path_factory.mktemp("tls")
    started = {"limits": {"head_s": 1.0, "patience_s": 1.0}, "errors": folder / "log"}
    with serving_tls(serve, authority, folder, started=started) as server:
        yield server
    assert (folder / "log").read_text() == ""  # strangers write no log


def test_tls(serve, authority: trustme.CA, tmp_path: Path, trusted: None, monkeypatch) -> None:
    with serving_tls(serve, authority, tmp_path) as server:
        assert server.url.startswith("https://")
        client = server.client()
        client.put("k", bytes(MB))
        assert read(client, "k") == bytes(MB)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
            server.client().lookup(["k"])


def test_an_expired_certificate(serve, authority, tmp_path: Path, trusted: None) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with serving_tls(serve, authority, tmp_path, not_after=yesterday) as server:
        for verb in (server.client().get, lambda key: server.client().put(key, b"1")):
            with pytest.raises(StoreError, match="certificate has expired"):
                verb("k")


def test_a_certificate_of_other_names(serve, authority, tmp_path: Path, trusted: None) -> None:
    """No token and no key is sent to a server that cannot show the name that was asked for."""
    with serving_tls(serve, authority, tmp_path, "other.example.com", "127.0.0.2") as server:
        for verb in (server.client().get, lambda key: server.client().put(key, b"1")):
            with pytest.raises(StoreError, match=r"certificate is not valid for '127\.0\.0\.1'"):
                verb("k")
        assert not list((tmp_path / "store").rglob("k"))


def test_versions_before_1_2(hasty) -> None:
    old = speaking(ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
    with dial(hasty) as connection, pytest.raises(ssl.SSLError):
        old.wrap_socket(connection)


@pytest.mark.parametrize("version", [V12, V13])
def test_versions_from_1_2_on(hasty, version: ssl.TLSVersion) -> None:
    with speaking(version, version).wrap_socket(dial(hasty)) as connection:
        connection.sendall(head("GET", "/healthz"))
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_plain_http_to_a_port_of_tls(hasty) -> None:
    with dial(hasty) as connection:
        connection.sendall(head("GET", "/healthz"))
        assert ended(connection, within_s=3)


def test_handshakes_that_do_not_end(hasty, trusted: None) -> None:
    """They count as connections, end in time, and keep out nobody who does shake hands.

    Before, they did not count and had a minute.
    """
    hasty.client().lookup(["k"])
    with ExitStack() as stack, growth_below(hasty, 16):
        before = files_of(hasty)
        connections: list[socket.socket] = []
        for number in range(4 * CONNECTIONS):
            connections.append(stack.enter_context(dial(hasty)))
            connections[-1].sendall(HALF if number % 2 else b"")
        assert eventually(lambda: files_of(hasty) <= before + CONNECTIONS)
        assert hasty.client().lookup(["k"]) == [None]
        began_s = time.monotonic()
        assert all(ended(connection, within_s=5) for connection in connections)
        assert time.monotonic() - began_s < 4


def test_an_object_that_is_not_taken(hasty, trusted: None) -> None:
    client = hasty.client()
    client.put("large", bytes(20 * MB))
    before = files_of(hasty)
    with small_socket(hasty) as connection, speaking(V13, V13).wrap_socket(connection) as deaf:
        deaf.sendall(head("GET", "/large"))
        assert eventually(lambda: files_of(hasty) > before)
        assert eventually(lambda: files_of(hasty) <= before)
    client.delete("large")


def test_the_end_waits_for_no_idle_client(serve, authority, tmp_path: Path, trusted: None) -> None:
    """Before, half a minute for one to say goodbye that does not know."""
    with serving_tls(serve, authority, tmp_path) as server:
        client = server.client()
        client.lookup(["k"])
        began_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began_s < 5


def test_who_does_not_end_tls(hasty, trusted: None) -> None:
    """A client that has what it asked for, and never says goodbye, holds nothing."""
    before = files_of(hasty)
    with speaking(V13, V13).wrap_socket(dial(hasty)) as connection:
        connection.sendall(head("GET", "/healthz"))
        assert eventually(lambda: files_of(hasty) > before)
        assert eventually(lambda: files_of(hasty) <= before)
