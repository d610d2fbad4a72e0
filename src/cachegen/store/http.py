"""Requests over HTTP whose answers have a most: of bytes and seconds, whatever a server says."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import NoReturn

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as NoAnswer

from cachegen.errors import StoreError, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.connections import Bounds, authority, connections, credentials
from cachegen.store.protocol import Buffer
from cachegen.store.secrets import Secrets

# Arbitrary: 16 to 256 KiB do; small enough to tell the throughput from the pieces' arrival.
PIECE_BYTES = 64 << 10
# What a server says beside objects: a status and a reason. Ours says at most a line (a key of 512
# characters); pages of errors of other servers have some kB. Arbitrary: 16 KiB to 1 MiB does.
SAID_BYTES = 64 << 10
# Of a piece, besides its bytes: what chunked transfer coding adds. Arbitrary: 1 KiB to 1 MiB does.
_FRAME_BYTES = 64 << 10
_LENGTH = re.compile(r"[0-9]{1,15}")
# After so many pieces they must have had so many bytes each: the frames of smaller ones cost more
# than they bring, and no link cuts its packets so (an IPv4 host takes 576 bytes, RFC 791).
# Arbitrary: 100 to 10,000 pieces, and 16 to 256 bytes, do.
_FEW_PIECES, _LEAST_PIECE_BYTES = 1000, 64
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")

Answer = urllib3.BaseHTTPResponse


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
        if isinstance(connection, Bounds) and connection.bounded is not None:
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
    making = partial(connections, host, port, tls=tls, timeout_s=timeout_s, proxy=proxy)
    pool = PerProcess(partial(making, authorization=authorization))
    pool()  # authorities that cannot be read are an error now
    origin = ""
    if proxy is not None:
        secrets = Secrets((*secrets.words, *credentials(proxy)))
        origin = "" if tls else f"http://{authority(host, port)}"
    return HttpClient(pool, url, secrets, timeout_s, origin)


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
