"""Requests over HTTP whose answers have a most: of bytes and seconds, whatever a server says."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as NoAnswer

from cachegen.errors import StoreError, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.protocol import Buffer, interruptible
from cachegen.store.secrets import Secrets

# Arbitrary: 16 to 256 KiB do; small enough to tell the throughput from the pieces' arrival.
PIECE_BYTES = 64 << 10
# What a server says beside objects: a status and a reason. Ours says at most a line (a key of 512
# characters); pages of errors of other servers have some kB. Arbitrary: 16 KiB to 1 MiB does.
SAID_BYTES = 64 << 10
# Status and headers of an answer. Servers send some hundred bytes; our own takes as much of a
# request. Arbitrary: 16 KiB to 1 MiB does.
_HEAD_BYTES = 64 << 10
# Of a piece, besides its bytes: what chunked transfer coding adds. Arbitrary: 1 KiB to 1 MiB does.
_FRAME_BYTES = 64 << 10
# Arbitrary: 2 to 30 s do; TCP repeats a lost SYN after 1 and after 3 s.
_CONNECT_S = 5.0
# Arbitrary: 8 to 128 do. Connections kept for reuse; more are opened when needed, then closed.
_MAX_CONNECTIONS = 32
# At most two pieces wait in the system's send buffer: the time they wait there counts as waiting
# for the answer, and megabytes take long on a slow link.
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)
_LENGTH = re.compile(r"[0-9]{1,15}")
# After so many pieces they must have had so many bytes each: the frames of smaller ones cost more
# than they bring, and no link cuts its packets so (an IPv4 host takes 576 bytes, RFC 791).
# Arbitrary: 100 to 10,000 pieces, and 16 to 256 bytes, do.
_FEW_PIECES, _LEAST_PIECE_BYTES = 1000, 64
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")

Answer = urllib3.BaseHTTPResponse


class _Bounded(io.RawIOBase):
    """The bytes of a socket, as far as they are allowed."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, *, timeout_s: float) -> None:
        """Allow the head of an answer."""
        self._sock, self._raw, self._timeout_s = sock, raw, timeout_s
        self.allow(_HEAD_BYTES)

    def allow(self, num_bytes: int) -> None:
        """Let this many bytes come, within the time of one wait."""
        self._left_bytes, self._due_s = num_bytes, time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._due_s:
            raise TimeoutError(f"it was not complete after {self._timeout_s:g} s")
        if self._left_bytes <= 0:
            raise OSError("it has more bytes around its content than any server needs")
        with interruptible(self._shut):
            count = self._raw.readinto(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _shut(self) -> None:
        """Shut the connection below TLS, which would have to be asked in turn with its reader."""
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class _Bounds:
    """Gives a connection's answers bounds."""

    bounded: _Bounded | None = None

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
        """What `http.client` reads an answer with."""
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        timeout_s = sock.gettimeout()
        assert timeout_s is not None
        self.bounded = _Bounded(sock, response.fp.detach(), timeout_s=timeout_s)
        response.fp = io.BufferedReader(self.bounded)
        return response


class _Connection(_Bounds, HTTPConnection):  # type: ignore[misc]  # a method in place of a class
    pass


class _SecureConnection(_Bounds, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


@dataclass(frozen=True, slots=True)
class HttpClient:
    """The connections to one server; made by `client`.

    Attributes:
        pool: gives this process's connections.
        url: the server's name in messages, free of credentials.
        secrets: what no message shows, whatever the server says.
        timeout_s: for a connection, the head of an answer, the next piece, a whole short answer.
        origin: what a proxy is told before each path, where it forwards requests; else empty.
    """

    pool: PerProcess[urllib3.HTTPConnectionPool]
    url: str
    secrets: Secrets = field(repr=False)
    timeout_s: float
    origin: str = ""

    def ask(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        body: memoryview | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; once more if a pooled connection turns out to have been closed.

        The answer is at its body, and belongs into a `Body` or to `said`.

        Raises:
            StoreError, StoreTimeout: there is no connection, or no answer.
        """
        pool = self.pool()
        with self.translated(doing):
            for attempt in (1, 2):
                try:
                    return pool.urlopen(
                        method,
                        f"{self.origin}{path}",
                        body=None if body is None else _slices(body),
                        headers={**pool.headers, **(headers or {})},
                        retries=False,
                        redirect=False,
                        assert_same_host=not self.origin,
                        preload_content=False,
                        decode_content=False,
                    )
                except ProtocolError:
                    if attempt == 2:
                        raise
        raise AssertionError("two attempts return or raise")

    def said(self, answer: Answer, doing: str, *, max_bytes: int = SAID_BYTES) -> bytes:
        """The whole body of a short answer.

        Raises:
            StoreError, StoreTimeout: it is longer, or takes longer than one wait.
        """
        found, due_s = bytearray(), time.monotonic() + self.timeout_s
        body = Body(self, answer, doing)
        try:
            for piece in body:
                found += piece
                if len(found) > max_bytes:
                    self.fail(doing, f"expected an answer of at most {max_bytes} bytes, got more")
                if time.monotonic() > due_s:
                    raise StoreTimeout(
                        f"{self.url}: cannot {doing}: its answer was not complete after "
                        f"{self.timeout_s:g} s"
                    )
        finally:
            body.close()
        return bytes(found)

    def fail(self, doing: str, why: str, kind: type[StoreError] = StoreError) -> NoReturn:
        """Raise an error that names the store and the action, and shows no secret."""
        raise kind(f"{self.url}: cannot {doing}: {self.secrets.hidden_in(why)}")

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn a failure of the connection into a StoreError that names store and action.

        In urllib3 the class of a refused connection is a subclass of timeouts.
        """
        try:
            yield
        except NewConnectionError as error:
            raise self._error(StoreError, doing, error) from self.secrets.cause(error)
        except NoAnswer as error:
            kind, cause = StoreTimeout, self.secrets.cause(error)
            raise self._error(kind, f"{doing}: no answer in time", error) from cause
        except (HTTPError, OSError) as error:
            raise self._error(StoreError, doing, error) from self.secrets.cause(error)

    def _error(self, kind: type[StoreError], doing: str, error: Exception) -> StoreError:
        return kind(f"{self.url}: cannot {doing}: {self.secrets.hidden_in(str(error))}")


class Body(Iterator[Buffer]):
    """The bytes of an answer as they arrive; closing it early drops the connection.

    With ``num_bytes`` it has exactly so many, or fails.

    Attributes:
        modified_s: as of `Opened`.
    """

    modified_s: float | None = None

    def __init__(
        self, client: HttpClient, answer: Answer, doing: str, *, num_bytes: int | None = None
    ) -> None:
        """Start at the body's beginning."""
        self._client, self._answer, self._doing = client, answer, doing
        self._left_bytes = num_bytes
        self._num_pieces = self._num_bytes = 0

    def __next__(self) -> Buffer:
        """The next piece.

        Raises:
            StoreError, StoreTimeout: the connection fails, there are more or fewer bytes, or they
                come in crumbs.
        """
        connection = self._answer.connection
        if isinstance(connection, _Bounds) and connection.bounded is not None:
            connection.bounded.allow(PIECE_BYTES + _FRAME_BYTES)
        with self._client.translated(self._doing):
            piece = self._answer.read1(PIECE_BYTES)
        if self._left_bytes is not None:
            self._left_bytes -= len(piece)
            if self._left_bytes < 0 or (self._left_bytes and not piece):
                self.close()
                self._client.fail(self._doing, "expected the bytes of the range, got others")
        if not piece:
            raise StopIteration
        self._num_pieces += 1
        self._num_bytes += len(piece)
        if self._num_pieces > max(_FEW_PIECES, self._num_bytes // _LEAST_PIECE_BYTES):
            self.close()
            self._client.fail(
                self._doing,
                f"expected pieces of {_LEAST_PIECE_BYTES} bytes and more, got {self._num_bytes} "
                f"bytes in {self._num_pieces}",
            )
        return piece

    def close(self) -> None:
        """End the transfer."""
        self._answer.close()

    def __del__(self) -> None:
        self.close()


def body_of(
    client: HttpClient, answer: Answer, doing: str, *, asked: tuple[int, int] | None
) -> Body:
    """The body of an answer to GET with the status 200 or 206, if it is what was asked for.

    Raises:
        StoreError: it is another range, encoded, or of another length than it says.
    """
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        answer.close()
        client.fail(doing, "expected the bytes as they are stored, got them encoded")
    if asked is None and answer.status == 200:
        body = Body(client, answer, doing)
        body.modified_s = _modified_s(answer)
        return body
    num_bytes = None if asked is None else _num_bytes(answer, asked)
    if num_bytes is None:
        answer.close()
        expected = "the whole object" if asked is None else f"bytes {asked[0]} to {asked[1] - 1}"
        got = "the whole: ranges are not supported" if answer.status == 200 else "others"
        client.fail(doing, f"expected {expected}, got {got}")
    return Body(client, answer, doing, num_bytes=num_bytes)


def client(
    host: str,
    port: int | None,
    *,
    url: str,
    authorization: str | None,
    secrets: Secrets,
    tls: bool,
    timeout_s: float,
    proxy: str | None = None,
) -> HttpClient:
    """A client of a server; no connection is made yet.

    Certificates are checked against the system's authorities, or those in ``SSL_CERT_FILE``, by
    TLS 1.2 or later. Proxies that the environment names are not used: the credentials of a store
    go to the host of its URL and nowhere else, but through a ``proxy`` that is given.
    """
    making = partial(_connections, host, port, tls=tls, timeout_s=timeout_s, proxy=proxy)
    pool = PerProcess(partial(making, authorization=authorization))
    pool()  # authorities that cannot be read are an error now
    origin = ""
    if proxy is not None:
        secrets = Secrets((*secrets.words, *_credentials(proxy)))
        origin = "" if tls else f"http://{_authority(host, port)}"
    return HttpClient(pool, url, secrets, timeout_s, origin)


def _connections(
    host: str,
    port: int | None,
    *,
    authorization: str | None,
    tls: bool,
    timeout_s: float,
    proxy: str | None,
) -> urllib3.HTTPConnectionPool:
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s),
        "maxsize": _MAX_CONNECTIONS,
        "headers": {} if authorization is None else {"Authorization": authorization},
        "socket_options": [*HTTPConnection.default_socket_options, _UNSENT],
    }
    if tls:
        options["ssl_context"] = ssl.create_default_context()
        options["ssl_context"].minimum_version = ssl.TLSVersion.TLSv1_2
    if proxy is not None:
        return _through(proxy, host, port, tls=tls, options=options)
    return _SecurePool(host, port, **options) if tls else _Pool(host, port, **options)


def _through(
    proxy: str, host: str, port: int | None, *, tls: bool, options: dict[str, Any]
) -> urllib3.HTTPConnectionPool:
    """The connections through a proxy: tunnels, or for HTTP in clear what it forwards."""
    words = ":".join(_credentials(proxy)[:2])
    shown = urllib3.make_headers(proxy_basic_auth=words) if words else None
    manager = urllib3.ProxyManager(proxy, proxy_headers=shown, **options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager.connection_from_host(host, port, "https" if tls else "http")


def _authority(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def _credentials(proxy: str) -> tuple[str, ...]:
    """User and password of a proxy, and both as they are sent."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return ()
    words = unquote(parts.username), unquote(parts.password or "")
    return (*words, b64encode(":".join(words).encode()).decode())


def whole_size(answer: Answer) -> int | None:
    """Bytes of the object that an answer with the status 200 or 206 is, or is a part of."""
    if answer.status == 206:
        parts = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        return None if parts is None or parts[3] == "*" else int(parts[3])
    length = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
    return None if length is None else int(length[0])


def _num_bytes(answer: Answer, asked: tuple[int, int]) -> int | None:
    """Length of the range that is answered, if it is the one asked for as far as it exists."""
    start, stop = asked
    length = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
    if answer.status == 200:  # an object that ends within the range may come as a whole
        return int(length[0]) if length and start == 0 and int(length[0]) <= stop else None
    parts = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if parts is None:
        return None
    end = stop if parts[3] == "*" else min(stop, int(parts[3]))
    is_asked = (int(parts[1]), int(parts[2])) == (start, end - 1) and start < end
    is_long = length is None or int(length[0]) == end - start
    return end - start if is_asked and is_long else None


def _modified_s(answer: Answer) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers.get("Last-Modified", "")).timestamp()
    except (ValueError, OverflowError):
        return None


def _slices(view: memoryview) -> Iterator[bytes]:
    """The pieces of a body: each send, not the whole body, has to end within the timeout."""
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
