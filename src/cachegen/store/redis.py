"""Objects in Redis, each the string of one key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.protocol import Buffer, check_key, check_range, check_span, is_key

_PREFIX = "cachegen:"
# Arbitrary: 16 to 256 KiB do; small enough to tell the throughput from the pieces' arrival.
_PIECE_BYTES = 64 << 10
# 2 MiB on their way: they fill a link of 1 Gbit/s up to a round trip of 16 ms.
_WINDOW = 32
# Arbitrary: 2 to 30 s do; TCP repeats a lost SYN after 1 and after 3 s.
_CONNECT_S = 5.0
# Arbitrary: 100 to 10,000 do; keys that Redis looks at in one step of a scan.
_SCAN_COUNT = 1000


@dataclass(frozen=True, slots=True)
class RedisStore:
    """Objects in a Redis database; made by `connect`. Parents do not matter to it.

    Under ``maxmemory`` Redis evicts by its own rules. An object that is evicted while it is read
    is an error, never short data.

    Attributes:
        client: gives this process's connections to it; every value is bytes.
        url: the store's name in messages, free of credentials.
    """

    client: PerProcess[Any]
    url: str

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        payload = memoryview(data)
        with _translated(self.url, f"put {key}"):
            return bool(self.client().set(_PREFIX + key, payload, nx=True))

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        (size_bytes,) = self.lookup([key])
        start, stop = check_span(range, size_bytes, doing=f"{self.url}: cannot get {key}")
        return self._pieces(key, start, stop)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        with _translated(self.url, f"look up {len(keys)} keys"):
            pipeline = self.client().pipeline(transaction=False)
            for key in keys:
                pipeline.strlen(_PREFIX + key)
                pipeline.exists(_PREFIX + key)
            answers = pipeline.execute()
        found = zip(answers[::2], answers[1::2], strict=True)
        return [int(size_bytes) if there else None for size_bytes, there in found]

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        return self._keys(f"{prefix}/" if prefix else "")

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with _translated(self.url, f"delete {key}"):
            self.client().unlink(_PREFIX + key)

    def _pieces(self, key: str, start: int, stop: int) -> Iterator[Buffer]:
        """Pieces of a range, requested up to `_WINDOW` ahead so that round trips do not add up.

        If the iterator is closed early, its connection is dropped with the answers under way.
        """
        spans = [
            (first, min(first + _PIECE_BYTES, stop)) for first in range(start, stop, _PIECE_BYTES)
        ]
        with _translated(self.url, f"get {key}"), self._connection() as connection:
            for number in range(len(spans) + _WINDOW):
                if number < len(spans):
                    first, last = spans[number]
                    connection.send_command("GETRANGE", _PREFIX + key, first, last - 1)
                if number >= _WINDOW:
                    first, last = spans[number - _WINDOW]
                    yield self._piece(connection.read_response(), key, last - first)

    def _piece(self, data: bytes, key: str, size_bytes: int) -> bytes:
        if len(data) == size_bytes:
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
        seen = set()
        pattern = f"{_PREFIX}{prefix}*"
        with _translated(self.url, f"list {prefix or 'all keys'}"):
            for name in self.client().scan_iter(match=pattern, count=_SCAN_COUNT):
                key = name.decode(errors="replace").removeprefix(_PREFIX)
                if is_key(key) and key not in seen:
                    seen.add(key)
                    yield key


def connect(url: str, *, name: str, timeout_s: float) -> RedisStore:
    """The store of a ``redis://`` or ``rediss://`` URL; no connection is made yet."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(_CONNECT_S, timeout_s),
        "retry": Retry(NoBackoff(), 1),
    }
    client = PerProcess(partial(Redis.from_url, url, **options))
    client()  # a malformed URL is an error now
    return RedisStore(client, name)


@contextmanager
def _translated(url: str, doing: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise _kind(error)(f"{url}: cannot {doing}: {error}") from error


def _kind(error: Exception) -> type[StoreError]:
    if isinstance(error, OutOfMemoryError):
        return StoreFull
    if isinstance(error, AuthenticationError | NoPermissionError):
        return StoreDenied
    return StoreTimeout if isinstance(error, TimeoutError) else StoreError
