"""Buckets whose servers lie, and what of the environment holds for them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from cachegen.errors import LoadCancelled, StoreDenied, StoreError, StoreTimeout
from cachegen.store import Store, open_store, read
from cachegen.store.buckets.drafts import DraftedRequests
from cachegen.store.protocol import Hangup
from tests.hostile import MIB, Server, lying, measured
from tests.store.buckets import SCHEMES, TOKEN, use
from tests.store.test_lying import (
    BLOCK,
    FAILED,
    HTTP,
    OK,
    TIMEOUT_S,
    VERBS,
    fails,
    silent,
    silent_in_the_body,
)
from tests.toy import Toy

WITHOUT_LIST = tuple(verb for verb in VERBS if verb != "list")
SLOW = pytest.mark.slow  # by the functions that the first one reads with
EACH_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)
# A second, with room for a busy machine; servers are silent, and clients wait, for 20.
SOON_S = 5.0
# A process that lists, with what the sockets between hold.
LISTING_BYTES = 320 * MIB


@pytest.fixture
def at(monkeypatch):
    """`at(scheme, server)` opens a bucket of a scheme at a server that lies."""

    def opening(scheme: str, server: Server, timeout_s: float = TIMEOUT_S) -> Store:
        use(monkeypatch, scheme, f"http://{server.host}")
        return open_store(f"{scheme}://bucket", timeout_s=timeout_s)

    return opening


@pytest.mark.parametrize("answer", HTTP)
@pytest.mark.parametrize(
    "scheme", ["s3", pytest.param("gs", marks=SLOW), pytest.param("az", marks=SLOW)]
)
def test_endless_answers(at, scheme: str, answer: str) -> None:
    first, rest = HTTP[answer]

    def pour(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        server.pour(connection, rest)

    with lying(pour) as server:
        store = at(scheme, server)
        for verb in WITHOUT_LIST:
            if (answer, verb) == ("length", "lookup"):
                continue  # HEAD, which has no body; who gets the object sees what it is
            with measured() as cost:
                fails(store, verb)
            assert cost.num_bytes < 8 * MIB, verb
            assert cost.seconds < 10.0, verb  # two attempts beside the server, on a busy machine
            server.await_end(SOON_S)


@pytest.mark.parametrize("first", [FAILED, OK + b"\r\n"])
@pytest.mark.parametrize(
    "scheme", ["s3", pytest.param("gs", marks=SLOW), pytest.param("az", marks=SLOW)]
)
def test_endless_answers_to_a_listing(at, scheme: str, first: bytes) -> None:
    """obstore reads them whole: in a process that ends when it has taken its most."""

    def pour(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        server.pour(connection, BLOCK)

    with lying(pour) as server, measured() as cost:
        with pytest.raises(StoreError, match="more than 256 MiB"):
            list(at(scheme, server, 20.0).list())
        server.await_end(SOON_S)
        assert server.sent_bytes < LISTING_BYTES
    assert cost.num_bytes < 8 * MIB


def test_listings_have_a_most(at, monkeypatch) -> None:
    page = b"".join(
        b"<Contents><Key>k/%d</Key><LastModified>2026-11-21T12:00:00.000Z</LastModified>"
        b'<ETag>"1"</ETag><Size>1</Size></Contents>' % number
        for number in range(1000)
    )
    page = (
        b"<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>on</NextContinuationToken>%b</ListBucketResult>" % page
    )

    def say_again(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    monkeypatch.setattr("cachegen.store.buckets.listing.MAX_LISTED_KEYS", 20_000)
    with lying(say_again) as server:
        found = []
        with pytest.raises(StoreError, match="keys within 600 s, got more"):
            found.extend(at("s3", server).list())
        server.await_end(SOON_S)


def test_a_listing_that_takes_too_long(at, monkeypatch) -> None:
    monkeypatch.setattr("cachegen.store.buckets.listing.LISTING_S", 1.0)
    with lying(silent) as server:
        with pytest.raises(StoreError, match="got more; list below a prefix"):
            list(at("s3", server, 20.0).list())
        server.await_end(SOON_S)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK", FAILED])
@pytest.mark.parametrize("verb", WITHOUT_LIST)
def test_answers_that_dribble(at, verb: str, first: bytes) -> None:
    """Each byte comes in time, and the answer does not."""

    def dribble(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(first)
        server.pour(connection, b"a", pause_s=0.02)

    with lying(dribble) as server:
        store = at("s3", server)
        with measured() as cost, pytest.raises(StoreError):
            VERBS[verb](store)
        assert cost.seconds < 10.0
        server.await_end(SOON_S)


@EACH_SCHEME
def test_a_body_of_another_length(at, scheme: str) -> None:
    stored = b"Last-Modified: Sat, 21 Nov 2026 12:00:00 GMT\r\nETag: x\r\n\r\n"

    def say(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(OK + b"Content-Length: 10\r\n" + stored + b"a" * length)
        connection.shutdown(socket.SHUT_RDWR)

    with lying(say) as server:
        store = at(scheme, server)
        length = 9
        with pytest.raises(StoreError, match="get k"):
            read(store, "k")
        length = 1_000_000
        assert read(store, "k") == b"a" * 10  # what comes behind is no part of it


@pytest.mark.parametrize("handle", [silent, silent_in_the_body])
@pytest.mark.parametrize("verb", VERBS)
@EACH_SCHEME
def test_a_wait_ends_from_another_thread(at, scheme: str, verb: str, handle) -> None:
    reached = threading.Event()

    def say(server: Server, connection: socket.socket, request: bytes) -> None:
        reached.set()
        handle(server, connection, request)

    with lying(say) as server:
        store, hangup = at(scheme, server, 20.0), Hangup()
        if verb == "lookup" and handle is silent_in_the_body:
            return

        def wait() -> None:
            with hangup.heeded(), suppress(StoreError):
                read(store, "k") if verb == "get" else VERBS[verb](store)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert reached.wait(20.0)
        time.sleep(0.1)
        assert waiting.is_alive()
        hangup.end()
        waiting.join(SOON_S)
        assert not waiting.is_alive()
        server.await_end(SOON_S)


@EACH_SCHEME
def test_a_load_that_is_cancelled_leaves_nothing(at, scheme: str) -> None:
    reached, cancel = threading.Event(), threading.Event()

    def say(server: Server, connection: socket.socket, request: bytes) -> None:
        reached.set()
        silent(server, connection, request)

    with lying(say) as server:
        store = at(scheme, server, 20.0)
        threading.Thread(target=lambda: (reached.wait(20.0), cancel.set())).start()
        with pytest.raises(LoadCancelled):
            Toy().load(list(range(128)), store, cancel=cancel)
        server.await_end(SOON_S)


def test_a_listing_that_nobody_reads_on_ends(at) -> None:
    with lying(silent) as server:
        keys = at("s3", server, 20.0).list()
        hangup = Hangup()
        reading = threading.Thread(target=lambda: _next(keys, hangup))
        reading.start()
        while not server.open:
            time.sleep(0.01)
        hangup.end()
        reading.join(SOON_S)
        assert not reading.is_alive()
        server.await_end(SOON_S)


def _next(keys, hangup: Hangup) -> None:
    with hangup.heeded(), suppress(StoreError):
        next(keys)


def test_a_wait_for_credentials_ends_from_another_thread(monkeypatch) -> None:
    with lying(silent) as identity:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"http://{identity.host}/token")
        store, hangup = open_store("az://container", timeout_s=20.0), Hangup()

        def wait() -> None:
            with hangup.heeded(), suppress(StoreError):
                store.lookup([f"k/{number}" for number in range(8)])

        waiting = threading.Thread(target=wait)
        waiting.start()
        began_s = time.monotonic()
        while not identity.open and time.monotonic() - began_s < 20:
            time.sleep(0.01)
        hangup.end()
        waiting.join(SOON_S)
        assert not waiting.is_alive()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, StoreError),
        (401, StoreDenied),
        (403, StoreDenied),
        (408, StoreTimeout),
        (500, StoreError),
        (503, StoreError),
        (504, StoreTimeout),
    ],
)
@pytest.mark.parametrize("verb", WITHOUT_LIST)
def test_what_a_status_means(at, verb: str, status: int, kind: type[StoreError]) -> None:
    body = b"<Error><Code>Odd</Code><Message>so it is</Message></Error>"

    def say(server: Server, connection: socket.socket, request: bytes) -> None:
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        connection.sendall(head + (b"" if request.startswith(b"HEAD") else body))

    reason = "" if verb == "lookup" else ", Odd: so it is"
    with lying(say) as server:
        with pytest.raises(StoreError, match=f"status {status}{reason}") as failure:
            VERBS[verb](at("s3", server))
        assert failure.type is kind


def test_a_bucket_that_is_elsewhere(at) -> None:
    def redirect(server: Server, connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 301 X\r\nLocation: http://a/\r\nContent-Length: 0\r\n\r\n")

    with lying(redirect) as server, pytest.raises(StoreError, match="its region or endpoint"):
        read(at("s3", server), "k")


def test_a_connection_that_the_server_has_closed_meanwhile(at) -> None:
    asked = []

    def once(server: Server, connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nok")
        connection.shutdown(socket.SHUT_RDWR)

    with lying(once) as server:
        store = at("s3", server)
        assert [read(store, "k") for _ in range(3)] == [b"ok"] * 3
    assert len(asked) >= 3  # more where a request was on its way when the connection ended


def test_lookups_share_a_connection(at) -> None:
    used = set()

    def answer(server: Server, connection: socket.socket, request: bytes) -> None:
        used.add(connection)
        connection.sendall(OK + b"Content-Length: 1\r\n\r\n")

    with lying(answer) as server:
        store = at("s3", server)
        assert [store.lookup(["k"]) for _ in range(5)] == [[1]] * 5
    assert len(used) == 1


def answering(asked: list[bytes]):
    def answer(server: Server, connection: socket.socket, request: bytes) -> None:
        asked.append(request)
        connection.sendall(OK + b"Content-Length: 1\r\n\r\n")

    return answer


@pytest.mark.parametrize(
    ("scheme", "name", "word"),
    [
        ("s3", "AWS_SKIP_SIGNATURE", b"X-Amz"),
        ("gs", "GOOGLE_SKIP_SIGNATURE", b"authorization"),
        ("az", "AZURE_SKIP_SIGNATURE", b"authorization"),
    ],
)
def test_buckets_for_everybody(at, scheme: str, name: str, word: bytes, monkeypatch) -> None:
    asked: list[bytes] = []
    with lying(answering(asked)) as server:
        assert at(scheme, server).lookup(["k"]) == [1]
        monkeypatch.setenv(name, "true")
        assert at(scheme, server).lookup(["k"]) == [1]
    signed, unsigned = asked
    assert word in signed and word not in unsigned


def test_a_session_of_aws(at, monkeypatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SESSION/1")
    with lying(answering(asked)) as server:
        assert at("s3", server).lookup(["k"]) == [1]
    assert b"X-Amz-Security-Token=SESSION%2F1" in asked[0]


def test_a_shared_access_signature_of_azure(at, monkeypatch) -> None:
    asked: list[bytes] = []
    with lying(answering(asked)) as server:
        at("az", server)
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2020-04-08&sig=S3CR3T%3D")
        assert open_store("az://bucket/prefix").lookup(["k"]) == [1]
    first = asked[0].partition(b"\r\n")[0]
    assert first == b"HEAD /bucket/prefix/k?sv=2020-04-08&sig=S3CR3T%3D HTTP/1.1"


@pytest.mark.parametrize(("account", "path"), [(None, "devstoreaccount1"), ("other", "other")])
def test_the_emulator_of_azure(account: str | None, path: str, monkeypatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    if account is not None:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", account)
    with lying(answering(asked)) as server:
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://{server.host}")
        assert open_store("az://container").lookup(["k"]) == [1]
    assert asked[0].startswith(f"HEAD /{path}/container/k HTTP".encode())
    assert f"SharedKey {path}:".encode() in asked[0]


@pytest.mark.parametrize(
    ("scheme", "name", "value", "reason"),
    [
        ("s3", "AWS_SERVER_SIDE_ENCRYPTION", "aws:kms", "encryption of the bucket"),
        ("s3", "AWS_SSE_CUSTOMER_KEY_BASE64", "S3CR3T", "encryption of the bucket"),
        ("s3", "AWS_S3_EXPRESS", "true", "not supported"),
        ("s3", "AWS_PROXY_URL", "http://S3CR3T@a", "HTTPS_PROXY"),
        ("gs", "GOOGLE_PROXY_URL", "http://S3CR3T@a", "HTTPS_PROXY"),
        ("az", "AZURE_ALLOW_INVALID_CERTIFICATES", "true", "SSL_CERT_FILE"),
        ("gs", "HTTP_PROXY", "http://S3CR3T@a", "127.0.0.1 in NO_PROXY"),
        ("az", "ALL_PROXY", "http://S3CR3T@a", "127.0.0.1 in NO_PROXY"),
    ],
)
def test_settings_that_cannot_be_kept(scheme, name, value, reason, monkeypatch) -> None:
    use(monkeypatch, scheme, "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=reason) as failure:
        open_store(f"{scheme}://bucket")
    assert "S3CR3T" not in str(failure.value)


def test_a_bucket_without_conditional_puts_is_not_written(at, monkeypatch) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    asked: list[bytes] = []
    refused = pytest.raises(StoreError, match="AWS_CONDITIONAL_PUT")
    with lying(answering(asked)) as server, refused:
        at("s3", server).put("k", b"1")
    assert not asked


@EACH_SCHEME
def test_a_proxy_forwards_what_is_not_encrypted(scheme: str, monkeypatch) -> None:
    use(monkeypatch, scheme, "http://bucket.example:8080")
    asked: list[bytes] = []
    with lying(answering(asked)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:S3CR3T@{proxy.host}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert open_store(f"{scheme}://bucket", timeout_s=5.0).lookup(["k"]) == [1]
    head = asked[0].decode()
    assert head.startswith("HEAD http://bucket.example:8080/bucket/k")
    assert "host: bucket.example:8080\r\n" in head.lower()
    assert "proxy-authorization: basic bwu6" in head.lower()


def test_a_proxy_leads_to_what_is_encrypted(monkeypatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("bucket.example").configure_cert(context)
    use(monkeypatch, "s3", "https://bucket.example")
    tunnels, asked = [], []

    def tunnel(server: Server, connection: socket.socket, request: bytes) -> None:
        tunnels.append(request)
        host, _, port = service.host.partition(":")
        with socket.create_connection((host, int(port))) as there:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(there, connection))
            back.start()
            _pass_on(connection, there)
            back.join()

    with lying(answering(asked), tls=context) as service, lying(tunnel) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
        assert open_store("s3://bucket", timeout_s=5.0).lookup(["k"]) == [1]
    assert tunnels[0].startswith(b"CONNECT bucket.example:443 HTTP")
    assert asked[0].startswith(b"HEAD /bucket/k?X-Amz")


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_what_others_say_to_the_listener_is_no_request(monkeypatch) -> None:
    """Another process of the machine that finds the port."""
    use(monkeypatch, "gs", "http://127.0.0.1:9")
    requests = DraftedRequests("gs://bucket", timeout_s=5.0)
    desk = requests._desk()
    head = b"HEAD /bucket/k HTTP/1.1\r\nauthorization: Bearer OTHER\r\n%b\r\n"
    for proof in (b"", b"cachegen-draft: guessed\r\n"):
        with socket.create_connection(desk._listening.getsockname()) as other:
            other.sendall(head % proof)
            drafted = requests.write("HEAD", "k", range=None, body=None)
            assert drafted.headers["authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in repr(drafted) and "cachegen-draft" not in drafted.headers
