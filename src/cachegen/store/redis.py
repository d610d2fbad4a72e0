"""Objects in Redis, each the string of one key."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
)
from redis.exceptions import TimeoutError as SlowAnswer
from redis.retry import Retry

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.protocol import (
    Buffer,
    Opened,
    check_key,
    check_range,
    check_span,
    interruptible,
    is_key,
)
from cachegen.store.secrets import Secrets
from cachegen.store.wire import LISTING_S, MAX_LISTED_KEYS, MAX_LOOKUP_KEYS

_PREFIX = "cachegen:"
# Arbitrary: 16 to 256 KiB do; small enough to tell the throughput from the pieces' arrival.
_PIECE_BYTES = 64 << 10
# 2 MiB on their way: they fill a link of 1 Gbit/s up to a round trip of 16 ms.
_WINDOW = 32
# Arbitrary: 2 to 30 s do; TCP repeats a lost SYN after 1 and after 3 s.
_CONNECT_S = 5.0
# Arbitrary: 100 to 10,000 do; keys that Redis looks at in one step of a scan.
_SCAN_COUNT = 1000
# What comes for one request, or for the `_WINDOW` under way: twice those 2 MiB, and above the
# sizes of a lookup (4,096 keys of 48 bytes) and a step of a scan (1,000 keys of 512). Answers of
# many small parts take 16 times as much memory. Arbitrary: 3 to 16 MiB does.
_ANSWER_BYTES = 4 << 20
_LARGEST_SIZE = 2**63 - 1
# Redis's own.
_PORT = 6379
_DATABASE_DIGITS = 9


class _Wire:
    """A socket of redis-py, which lets an answer be so long, and last so long, and no more."""

    def __init__(self, sock: Any, *, timeout_s: float) -> None:
        """Allow one answer."""
        self._sock, self._timeout_s = sock, timeout_s
        self.allow()

    def allow(self) -> None:
        """Let one more answer come."""
        self._left_bytes, self._due_s = _ANSWER_BYTES, time.monotonic() + self._timeout_s

    def sendall(self, data: Any) -> None:
        """Send a request, whose answer may come."""
        self.allow()
        self._sock.sendall(data)

    def recv(self, num_bytes: int) -> bytes:
        """The next bytes of the answer.

        Raises:
            TimeoutError: it is not complete in time.
            OSError: it is too long.
        """
        self._check()
        with interruptible(self._shut):
            data: bytes = self._sock.recv(min(num_bytes, self._left_bytes))
        self._left_bytes -= len(data)
        return data

    def recv_into(self, buffer: Any) -> int:
        """As `recv`; hiredis calls it."""
        self._check()
        with interruptible(self._shut):
            count: int = self._sock.recv_into(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count
        return count

    def _check(self) -> None:
        is_waiting = self._sock.gettimeout() != 0  # else redis-py asks whether an idle one closed
        if is_waiting and time.monotonic() > self._due_s:
            raise TimeoutError(f"the answer was not complete after {self._timeout_s:g} s")
        if self._left_bytes <= 0:
            raise OSError(f"expected an answer of at most {_ANSWER_BYTES} bytes, got more")

    def _shut(self) -> None:
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Bounded:
    """Gives a connection's answers bounds."""

    wire: _Wire

    def _connect(self) -> _Wire:
        sock = super()._connect()  # type: ignore[misc]
        self.wire = _Wire(sock, timeout_s=sock.gettimeout())
        return self.wire


class _Connection(_Bounded, Connection):
    pass


class _SecureConnection(_Bounded, SSLConnection):
    pass


@dataclass(frozen=True, slots=True)
class RedisStore:
    """Objects in a Redis database; made by `connect`. Parents do not matter to it.

    Under ``maxmemory`` Redis evicts by its own rules. An object that is evicted while it is read
    is an error, never short data.

    Attributes:
        client: gives this process's connections to it; every value is bytes.
        url: the store's name in messages, free of credentials.
        secrets: what no message shows, whatever the server says.
    """

    client: PerProcess[Any]
    url: str
    secrets: Secrets = field(repr=False)

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        payload = memoryview(data)
        with self._translated(f"put {key}"):
            return bool(self.client().set(_PREFIX + key, payload, nx=True))

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        (size_bytes,) = self.lookup([key])
        start, stop = check_span(range, size_bytes, doing=f"{self.url}: cannot get {key}")
        assert size_bytes is not None
        return Opened(size_bytes, self._pieces(key, start, stop))

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        sizes: list[int | None] = []
        while len(sizes) < len(keys):
            sizes += self._sizes(keys[len(sizes) : len(sizes) + MAX_LOOKUP_KEYS])
        return sizes

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        return self._keys(f"{prefix}/" if prefix else "")

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with self._translated(f"delete {key}"):
            self.client().unlink(_PREFIX + key)

    def _sizes(self, keys: Sequence[str]) -> Sequence[int | None]:
        doing = f"look up {len(keys)} keys"
        with self._translated(doing):
            pipeline = self.client().pipeline(transaction=False)
            for key in keys:
                pipeline.strlen(_PREFIX + key)
                pipeline.exists(_PREFIX + key)
            answers = pipeline.execute()
        if not all(_is_size(answer) for answer in answers):
            raise StoreError(f"{self.url}: cannot {doing}: expected sizes, got another answer")
        found = zip(answers[::2], answers[1::2], strict=True)
        return [size_bytes if there else None for size_bytes, there in found]

    def _pieces(self, key: str, start: int, stop: int) -> Generator[Buffer, None, None]:
        """Pieces of a range, requested up to `_WINDOW` ahead so that round trips do not add up.

        If the iterator is closed early, its connection is dropped with the answers under way.
        """
        firsts = range(start, stop, _PIECE_BYTES)
        with self._translated(f"get {key}"), self._connection() as connection:
            for number in range(len(firsts) + _WINDOW):
                if number < len(firsts):
                    first = firsts[number]
                    last = min(first + _PIECE_BYTES, stop) - 1
                    connection.send_command("GETRANGE", _PREFIX + key, first, last)
                if number >= _WINDOW:
                    first = firsts[number - _WINDOW]
                    connection.wire.allow()
                    size_bytes = min(first + _PIECE_BYTES, stop) - first
                    yield self._piece(connection.read_response(), key, size_bytes)

    def _piece(self, data: object, key: str, size_bytes: int) -> bytes:
        if isinstance(data, bytes) and len(data) == size_bytes:
            return data
        if not data:
            raise KeyNotFound(f"{self.url}: cannot get {key}: it was removed while it was read")
        raise StoreError(f"{self.url}: cannot get {key}: it was replaced while it was read")

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of the pool; it is closed if an error leaves answers unread."""
        pool = self.client().connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix, each once: a scan may find a key twice while the table grows."""
        seen: set[str] = set()
        doing, due_s = f"list {prefix or 'all keys'}", time.monotonic() + LISTING_S
        cursor: object = 0
        while True:
            with self._translated(doing):
                cursor, names = self.client().scan(
                    cursor, match=f"{_PREFIX}{prefix}*", count=_SCAN_COUNT
                )
            for name in names:
                key = name.decode(errors="replace").removeprefix(_PREFIX)
                if is_key(key) and key not in seen:
                    seen.add(key)
                    yield key
            if cursor == 0:
                return
            if len(seen) > MAX_LISTED_KEYS or time.monotonic() > due_s:
                raise StoreError(
                    f"{self.url}: cannot {doing}: expected at most {MAX_LISTED_KEYS} keys within "
                    f"{LISTING_S:g} s, got more; list below a prefix"
                )

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # redis-py stumbles over odd answers in many ways
            text = self.secrets.hidden_in(str(error))
            raise _kind(error)(f"{self.url}: cannot {doing}: {text}") from self.secrets.cause(error)


def connect(parts: SplitResult, *, name: str, timeout_s: float) -> RedisStore:
    """The store of a ``redis://`` or ``rediss://`` URL; no connection is made yet.

    Raises:
        ValueError: the path is no number of a database.
    """
    database = parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit() and len(database) <= _DATABASE_DIGITS):
        raise ValueError(
            f"expected {parts.scheme}://host:port/database with a number, got {name!r}"
        )
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    options: dict[str, Any] = {
        "host": parts.hostname,
        "port": parts.port or _PORT,
        "db": int(database),
        "username": user or None,
        "password": password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(_CONNECT_S, timeout_s),
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,  # in the third a server may send what nobody asked for
    }
    secrets = Secrets(tuple(word for word in (password, user) if word))
    client = PerProcess(partial(_client, options, tls=parts.scheme == "rediss"))
    client()  # options that redis-py does not take are an error now
    return RedisStore(client, name, secrets)


def _client(options: dict[str, Any], *, tls: bool) -> Any:
    if tls:
        options = {
            **options,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            "ssl_check_hostname": True,
        }
        pool = ConnectionPool(connection_class=_SecureConnection, **options)
    else:
        pool = ConnectionPool(connection_class=_Connection, **options)
    return Redis(connection_pool=pool)


def _is_size(answer: object) -> bool:
    return isinstance(answer, int) and 0 <= answer <= _LARGEST_SIZE


def _kind(error: Exception) -> type[StoreError]:
    if isinstance(error, OutOfMemoryError):
        return StoreFull
    if isinstance(error, AuthenticationError | NoPermissionError):
        return StoreDenied
    return StoreTimeout if isinstance(error, SlowAnswer) else StoreError
