"""What proves who asks is in no message, whatever the URL is like and whatever servers say."""

from __future__ import annotations

import re
import socket
import ssl
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
import trustme
from hypothesis import HealthCheck, assume, example, given, settings

from cachegen.errors import StoreDenied, StoreError
from cachegen.store import open_store, read, shared_store
from cachegen.store.protocol import public_name
from cachegen.store.secrets import Secrets
from cachegen.store.url import SCHEMES
from tests.hostile import Server, lying
from tests.store.buckets import use
from tests.toy import Toy

SECRET = "S3CR3T-W0RD"
SCHEMES_OF_BUCKETS = ("s3", "gs", "az")
SOME = st.text(alphabet="aZ0/:?#%[]@\\ é\n\t&=+-_.~\uff01\uff05", max_size=8)
SCHEME = st.sampled_from([name for name in SCHEMES if "://" in name] + ["ftp://", "CACHEGEN://"])
HOST = st.sampled_from(
    ["127.0.0.1:9", "127.0.0.1:9/", "127.0.0.1:9/p", "h:99999", "h:x", "", "[::"]
)
QUERY = st.sampled_from(["", f"?sig={SECRET}", f"#{SECRET}", f"?a@{SECRET}"])


def text_of(error: BaseException) -> str:
    """All that a traceback shows, with causes and contexts."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.fixture
def buckets(monkeypatch) -> None:
    """Buckets at a server that is not there, and credentials for them."""
    for bucket in SCHEMES_OF_BUCKETS:
        use(monkeypatch, bucket, "http://127.0.0.1:9")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_BEARER_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2020-04-08&sig={SECRET}")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(scheme=SCHEME, before=SOME, after=SOME, host=HOST, query=QUERY)
@example("cachegen://", ":", "/x", "127.0.0.1:9", "")
@example("redis://", ":", "/x", "127.0.0.1:9", "")
@example("http://", "user:", "/x", "127.0.0.1:9", "")
@example("http://", "user:", "", "127.0.0.1:9/x@y", "")
@example("s3://", "key:", "/x", "bucket", "")
@example("file://", "key:", "", "host/x", "")
@example("cachegen://", ":\n", "", "127.0.0.1:9", "")
def test_no_url_shows_a_secret(buckets, scheme, before, after, host, query) -> None:
    assume(scheme != "file://" or not before.startswith("/"))  # a folder, whose name is shown
    url = f"{scheme}{before}{SECRET}{after}@{host}{query}"
    assert SECRET not in public_name(url)
    for opened in (open_store, lambda name: shared_store(name, create=False)):
        try:
            store = opened(url)
        except (ValueError, StoreError) as error:
            assert SECRET not in text_of(error)
            continue
        assert SECRET not in f"{store!r} {store.url}"
        if host.startswith("127.") or scheme.startswith(SCHEMES_OF_BUCKETS):
            with pytest.raises(StoreError) as failure:
                store.lookup(["k"])
            assert SECRET not in text_of(failure.value)


def test_no_object_in_place_of_a_store_is_shown() -> None:
    with pytest.raises(TypeError, match="got bytes") as failure:
        shared_store(f"cachegen://:{SECRET}@host:80".encode(), create=False)
    assert SECRET not in text_of(failure.value)


@pytest.mark.parametrize("token", [f"{SECRET}\r\nHost: other", f"{SECRET}é", f"{SECRET}\0"])
def test_a_token_that_no_header_can_hold(token: str, monkeypatch) -> None:
    monkeypatch.setenv("CACHEGEN_TOKEN", token.replace("\0", "\x7f"))
    with pytest.raises(ValueError, match="printable ASCII") as failure:
        open_store("cachegen://127.0.0.1:9")
    assert SECRET not in text_of(failure.value)


def echo(server: Server, connection: socket.socket, request: bytes) -> None:
    """Say what was asked, with the credentials, as a reason."""
    if request.startswith(b"*"):
        connection.sendall(b"-ERR unknown command %r\r\n" % request)
        return
    said = request.decode("latin-1").replace("\r\n", " ").replace('"', "")
    body = f'{{"error": "{said}"}}'.encode()
    connection.sendall(b"HTTP/1.1 403 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize("scheme", ["cachegen", "http", "redis"])
@pytest.mark.parametrize("secret", [SECRET, "S3CR3T%2FW0RD%40"])
def test_no_server_can_have_them_shown(scheme: str, secret: str) -> None:
    with lying(echo) as server:
        store = open_store(f"{scheme}://:{secret}@{server.host}", timeout_s=1.0)
        for verb in (lambda: read(store, "k"), lambda: store.lookup(["k"])):
            with pytest.raises(StoreError) as failure:
                verb()
            assert "S3CR3T" not in text_of(failure.value)
        tokens = list(range(64))
        toy = Toy()
        result = toy.load(tokens, store, recompute=toy.recompute(tokens))
    assert result.num_tokens == 64
    assert "S3CR3T" not in repr(result)


def echo_as_xml(server: Server, connection: socket.socket, request: bytes) -> None:
    """Say what was asked, with the credentials, as a reason of a bucket."""
    said = request.decode("latin-1").replace("\r\n", " ").replace("<", "")
    body = f"<Error><Code>{said}</Code><Message>{said}</Message></Error>".encode()
    connection.sendall(b"HTTP/1.1 403 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


SIGNED = {
    "s3": ("AWS_SESSION_TOKEN", "{}"),
    "gs": ("GOOGLE_BEARER_TOKEN", "{}"),
    "az": ("AZURE_STORAGE_SAS_TOKEN", "sv=2020-04-08&sig={}"),
}


@pytest.mark.parametrize("scheme", SIGNED)
@pytest.mark.parametrize("secret", [SECRET, "S3CR3T/W0RD+=="])
def test_no_bucket_can_have_them_shown(scheme: str, secret: str, monkeypatch) -> None:
    requests: list[bytes] = []

    def remember(server: Server, connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        echo_as_xml(server, connection, request)

    with lying(remember) as server:
        use(monkeypatch, scheme, f"http://{server.host}")
        name, form = SIGNED[scheme]
        is_azure = scheme == "az"
        if is_azure:
            monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        monkeypatch.setenv(name, form.format(quote(secret, safe="") if is_azure else secret))
        store = open_store(f"{scheme}://bucket", timeout_s=1.0)
        verbs = (
            lambda: read(store, "k"),
            lambda: store.lookup(["k"]),
            lambda: store.put("k", b"1"),
            lambda: store.delete("k"),
            lambda: list(store.list()),
        )
        for verb in verbs:
            with pytest.raises(StoreDenied) as failure:
                verb()
            assert "S3CR3T" not in text_of(failure.value) + repr(store)
    signatures = re.findall(rb"X-Amz-Signature=(\w+)", b" ".join(requests))
    assert len(signatures) == (4 if scheme == "s3" else 0)
    assert not any(found.decode() in text_of(failure.value) for found in signatures)


def test_what_secrets_hide() -> None:
    secrets = Secrets(("a/b c", "tiny"[:3]))
    assert secrets.hidden_in("a/b c a%2Fb%20c a/b%20c\nmore") == "... ... ..."
    assert secrets.hidden_in("tin") == "tin"
    assert len(secrets.hidden_in("x" * 1000)) == 300
    assert "a/b" not in repr(secrets)
    inner, outer, harmless = ValueError("a/b c"), ValueError("fine"), ValueError("fine")
    outer.__context__ = inner
    assert secrets.cause(outer) is None and secrets.cause(harmless) is harmless


AUTHORITY = trustme.CA()
CASES = {
    "another name": (AUTHORITY, ["example.com"]),
    "an unknown authority": (trustme.CA(), ["localhost", "127.0.0.1"]),
    "an old version": (AUTHORITY, ["localhost", "127.0.0.1"]),
    "all is well": (AUTHORITY, ["localhost", "127.0.0.1"]),
}


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def tls_server(case: str, asked: list[bytes]) -> Iterator[Server]:
    authority, names = CASES[case]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    if case == "an old version":
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")

    def answer(server: Server, connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        if request.startswith(b"*"):
            is_size = b"STRLEN" in request
            connection.sendall(b":1\r\n:1\r\n" if is_size else b"+OK\r\n" * request.count(b"*"))
        elif request.startswith(b"HEAD"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        else:
            body = b'{"sizes": [1]}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + body)

    return lying(answer, tls=context)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", ["cachegens", "https", "rediss"])
def test_only_the_host_that_was_meant_is_asked(scheme: str, case: str, trusted) -> None:
    asked: list[bytes] = []
    with tls_server(case, asked) as server:
        store = open_store(f"{scheme}://:{SECRET}@{server.host}", timeout_s=2.0)
        if case == "all is well":
            assert store.lookup(["k"]) == [1]
            return
        with pytest.raises(StoreError) as failure:
            store.lookup(["k"])
        assert failure.type not in (StoreDenied,) and SECRET not in text_of(failure.value)
    assert not asked
