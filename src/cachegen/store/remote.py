"""The client of `cachegen serve`: objects over plain HTTP, many sizes in one round trip."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, TimeoutError

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.protocol import MAX_KEY_LENGTH, Buffer, check_key, check_range, is_key
from cachegen.store.wire import LIST_PATH, LOOKUP_PATH, MAX_LOOKUP_KEYS, PARENT_HEADER, RESERVED

# Arbitrary: 16 to 256 KiB do; small enough to tell the throughput from the pieces' arrival.
_PIECE_BYTES = 64 << 10
# Arbitrary: 2 to 30 s do; TCP repeats a lost SYN after 1 and after 3 s.
_CONNECT_S = 5.0
# Arbitrary: 8 to 128 do. Connections kept for reuse; more are opened when needed, then closed.
_MAX_CONNECTIONS = 32
# Arbitrary: 100 to 1,000 do; a message of one line or two.
_REASON_LENGTH = 300
# At most two pieces wait in the system's send buffer: the time they wait there counts as waiting
# for the answer, and megabytes take long on a slow link.
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)
_FAILURES: dict[int, type[StoreError]] = {
    401: StoreDenied,
    403: StoreDenied,
    404: KeyNotFound,
    408: StoreTimeout,
    504: StoreTimeout,
    507: StoreFull,
}


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Objects on a server that `cachegen serve` started; made by `connect`.

    Attributes:
        pool: gives this process's connections to it.
        url: the store's name in messages, free of credentials.
    """

    pool: PerProcess[urllib3.HTTPConnectionPool]
    url: str

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        view = memoryview(data).cast("B")
        headers = {"Content-Length": str(len(view)), "If-None-Match": "*"}
        if parent is not None:
            headers[PARENT_HEADER] = parent
        response = self._ask("PUT", self._path(key), f"put {key}", body=view, headers=headers)
        self._check(response, f"put {key}", expected=(201, 412))
        return response.status == 201

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        headers = {} if range is None else {"Range": f"bytes={range[0]}-{range[1] - 1}"}
        response = self._ask("GET", self._path(key), f"get {key}", headers=headers, whole=False)
        self._check(response, f"get {key}", expected=(200, 206))
        return _Body(response, self.url, f"get {key}")

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        sizes: list[int | None] = []
        while len(sizes) < len(keys):
            sizes += self._lookup(keys[len(sizes) : len(sizes) + MAX_LOOKUP_KEYS])
        return sizes

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        doing = f"list {prefix or 'all keys'}"
        path = f"{LIST_PATH}?{urlencode({'prefix': prefix})}"
        response = self._ask("GET", path, doing, whole=False)
        self._check(response, doing, expected=(200,))
        return self._keys(_Body(response, self.url, doing), doing)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        response = self._ask("DELETE", self._path(key), f"delete {key}")
        self._check(response, f"delete {key}", expected=(204,))

    def _lookup(self, keys: Sequence[str]) -> Sequence[int | None]:
        doing = f"look up {len(keys)} keys"
        body = memoryview(json.dumps({"keys": list(keys)}).encode())
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        response = self._ask("POST", LOOKUP_PATH, doing, body=body, headers=headers)
        self._check(response, doing, expected=(200,))
        sizes = _field(response.data, "sizes")
        if not isinstance(sizes, list) or [_is_size(size) for size in sizes] != [True] * len(keys):
            raise StoreError(
                f"{self.url}: cannot {doing}: expected their sizes, got another answer"
            )
        return sizes

    def _keys(self, pieces: Iterator[Buffer], doing: str) -> Iterator[str]:
        for line in _lines(pieces):
            key = line.decode("ascii", errors="replace")
            if not is_key(key):
                raise StoreError(f"{self.url}: cannot {doing}: expected keys, got other bytes")
            yield key

    def _path(self, key: str) -> str:
        if key in RESERVED:
            raise StoreError(f"{self.url}: {key} is a page of the server and cannot be a key")
        return f"/{key}"

    def _ask(
        self,
        method: str,
        path: str,
        doing: str,
        *,
        body: memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        whole: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; once more if a pooled connection turns out to have been closed."""
        pool = self.pool()
        with _translated(self.url, doing):
            for attempt in (1, 2):
                try:
                    return pool.urlopen(
                        method,
                        path,
                        body=None if body is None else _slices(body),
                        headers={**pool.headers, **(headers or {})},
                        retries=False,
                        redirect=False,
                        preload_content=whole,
                        decode_content=False,
                    )
                except ProtocolError:
                    if attempt == 2:
                        raise
        raise AssertionError("two attempts return or raise")

    def _check(
        self, response: urllib3.BaseHTTPResponse, doing: str, *, expected: tuple[int, ...]
    ) -> None:
        """Raise the error of an unexpected status, with the server's own reason."""
        if response.status in expected:
            return
        with _translated(self.url, doing):
            reason = _field(response.data, "error") or f"status {response.status}"
        kind = _FAILURES.get(response.status, StoreError)
        raise kind(f"{self.url}: cannot {doing}: {str(reason)[:_REASON_LENGTH]}")


class _Body(Iterator[Buffer]):
    """The bytes of a response as they arrive; closing it early drops the connection."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str, doing: str) -> None:
        self._response, self._url, self._doing = response, url, doing

    def __next__(self) -> Buffer:
        with _translated(self._url, self._doing):
            piece = self._response.read1(_PIECE_BYTES)
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the transfer."""
        self._response.close()

    def __del__(self) -> None:
        self.close()


def connect(
    host: str, port: int, *, url: str, token: str | None, tls: bool, timeout_s: float
) -> RemoteStore:
    """A store on a server; no connection is made yet.

    Certificates are checked against the system's authorities, or those in ``SSL_CERT_FILE``.
    """
    pool = PerProcess(partial(_connections, host, port, token=token, tls=tls, timeout_s=timeout_s))
    pool()  # authorities that cannot be read are an error now
    return RemoteStore(pool, url)


def _connections(
    host: str, port: int, *, token: str | None, tls: bool, timeout_s: float
) -> urllib3.HTTPConnectionPool:
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s),
        "maxsize": _MAX_CONNECTIONS,
        "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
        "socket_options": [*HTTPConnection.default_socket_options, _UNSENT],
    }
    if not tls:
        return urllib3.HTTPConnectionPool(host, port, **options)
    context = ssl.create_default_context()
    return urllib3.HTTPSConnectionPool(host, port, ssl_context=context, **options)


@contextmanager
def _translated(url: str, doing: str) -> Iterator[None]:
    """Turn a failure of the connection into a StoreError that names the store and the action.

    In urllib3 the class of a refused connection is a subclass of timeouts.
    """
    try:
        yield
    except NewConnectionError as error:
        raise StoreError(f"{url}: cannot {doing}: {error}") from error
    except TimeoutError as error:
        raise StoreTimeout(f"{url}: cannot {doing}: no answer in time: {error}") from error
    except (HTTPError, OSError) as error:
        raise StoreError(f"{url}: cannot {doing}: {error}") from error


def _slices(view: memoryview) -> Iterator[bytes]:
    """The pieces of a body: each send, not the whole body, has to end within the timeout."""
    for start in range(0, len(view), _PIECE_BYTES):
        yield bytes(view[start : start + _PIECE_BYTES])


def _lines(pieces: Iterator[Buffer]) -> Iterator[bytes]:
    """The lines of a body; a line longer than any key is given in part."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + bytes(piece)).split(b"\n")
        yield from lines
        if len(rest) > MAX_KEY_LENGTH:
            yield rest


def _field(body: bytes, name: str) -> object:
    """A field of a JSON object; None where the body is no object with it."""
    try:
        return json.loads(body)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_size(found: object) -> bool:
    return found is None or (isinstance(found, int) and found >= 0)
