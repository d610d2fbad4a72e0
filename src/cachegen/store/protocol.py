"""The protocol of stores, five verbs, synchronous and thread-safe; and the keys that they take.

The rule for keys is the same for every store, so that no key can leave its root.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from cachegen.errors import KeyNotFound, StoreError

Buffer = bytes | bytearray | memoryview


class Store(Protocol):
    """Immutable objects under keys.

    A key is made of at most 16 segments of ``A-Z a-z 0-9 . _ -`` joined by ``/``, each of at most
    200 characters, all of at most 512; any other is a ValueError. A key does not continue another
    one: where ``a/b`` is an object, ``a/b/c`` cannot be. An object appears whole or not at all.
    Every method may raise StoreError, StoreTimeout where the store does not answer, or
    StoreDenied where it refuses the credentials or can only be read.
    """

    @property
    def url(self) -> str:
        """The store's name in messages, free of credentials."""
        ...

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """Create the object; False where the key was taken, whose object then stays as it is.

        ``parent`` names an object that this one is of no use without; a store that evicts
        drops children first.
        """
        ...

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """The object's bytes as they arrive; of ``range`` = (start, stop) those that exist.

        From a network the buffers are small, so that their arrival tells the throughput.
        Closing the iterator ends the transfer. Where the store knows the object's size from
        opening it, the iterator is a `Opened`.

        Raises:
            KeyNotFound: there is nothing under this key.
            ValueError: not ``0 <= start < stop``.
            StoreError: ``start`` lies behind the object's end.
        """
        ...

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """The size in bytes of each key's object, in the order asked; None where there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys below a prefix of whole segments, in no particular order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The bytes of an opened object as they arrive; an iterator of buffers.

    Attributes:
        size_bytes: of the whole object as it was opened, whatever range is read.
        buffers: the bytes.
        modified_s: when it was written, in seconds since the epoch; None where the store does not
            tell.
    """

    size_bytes: int
    buffers: Generator[Buffer, None, None]
    modified_s: float | None = None

    def __iter__(self) -> Opened:
        return self

    def __next__(self) -> Buffer:
        return next(self.buffers)

    def close(self) -> None:
        """End the transfer."""
        self.buffers.close()


def read(store: Store, key: str, *, max_bytes: int | None = None) -> bytes:
    """The whole object.

    Raises:
        KeyNotFound: there is nothing under this key.
        StoreError: it holds more than ``max_bytes``.
    """
    parts: list[Buffer] = []
    size_bytes = 0
    for part in store.get(key):
        size_bytes += len(part)
        if max_bytes is not None and size_bytes > max_bytes:
            raise StoreError(f"{key}: expected at most {max_bytes} bytes, got more")
        parts.append(part)
    return b"".join(parts)


# Our longest keys (FORMAT.md, section 5) take 289 characters, the namespace of a tenant included.
MAX_KEY_LENGTH = 512
# A bound on folders, one for each segment but the last. Ours have 8, the namespace included.
MAX_KEY_SEGMENTS = 16
# A bound: file systems take names of 255 bytes, a file that is being written `#` and 16 more. Ours
# have 64; 64 to 238 do.
MAX_SEGMENT_LENGTH = 200
_SEGMENTS = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")


def is_key(key: str) -> bool:
    """Whether a store takes this key."""
    if len(key) > MAX_KEY_LENGTH or _SEGMENTS.fullmatch(key) is None:
        return False
    segments = key.split("/")
    if len(segments) > MAX_KEY_SEGMENTS or max(map(len, segments)) > MAX_SEGMENT_LENGTH:
        return False
    return not {".", ".."} & set(segments)


def check_key(key: str) -> None:
    """Refuse what is not a key.

    Raises:
        ValueError: says what a key looks like.
    """
    if not is_key(key):
        raise ValueError(
            f"expected a key of at most {MAX_KEY_SEGMENTS} segments [A-Za-z0-9._-] joined by '/', "
            f"without '.' and '..', each of at most {MAX_SEGMENT_LENGTH} characters and all of at "
            f"most {MAX_KEY_LENGTH}; got {key[:MAX_KEY_LENGTH]!r}"
        )


def check_range(range: tuple[int, int] | None) -> None:
    """Refuse what is not a range.

    Raises:
        ValueError: says what a range looks like.
    """
    if range is not None and not 0 <= range[0] < range[1]:
        raise ValueError(f"expected a range with 0 <= start < stop, got {range}")


def check_span(
    range: tuple[int, int] | None, size_bytes: int | None, *, doing: str
) -> tuple[int, int]:
    """The bytes (start, stop) of an object that a range means; all of them where it is None.

    Args:
        range: that `check_range` has taken.
        size_bytes: of the object; None where there is none.
        doing: how messages begin: the store, and what cannot be done.

    Raises:
        KeyNotFound: there is no object.
        StoreError: the range starts behind the object's end.
    """
    if size_bytes is None:
        raise KeyNotFound(f"{doing}: there is no such object")
    if range is None:
        return 0, size_bytes
    start, stop = range
    if start >= size_bytes:
        raise StoreError(
            f"{doing}: expected a range that starts before byte {size_bytes}, got {range}"
        )
    return start, min(stop, size_bytes)


def public_name(url: str) -> str:
    """A URL, well formed or not, without what may be secret: all up to the last ``@``, the query.

    Only the scheme is left where an ``@`` stands behind a ``?`` or ``#``: it may end either. The
    path of a folder is as it is.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or (scheme == "file" and rest.startswith("/")):
        return url
    before, *behind = re.split("[?#]", rest, maxsplit=1)
    shown = "..." if behind and "@" in behind[0] else before.rpartition("@")[2]
    return f"{scheme}://{shown}"


# Some round trips of a distant store, after which its connection is kept. Arbitrary: 0.2 to 0.8 s,
# as whatever is given up ends within a second.
_SOON_S = 0.5

_HERE = threading.local()


@dataclass(slots=True, eq=False)
class Hangup:
    """The waits of some work at stores; `end` ends those under way, and all later ones at once.

    The threads that do the work name it with `heeded`; stores name their waits with
    `interruptible`.
    """

    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _waits: dict[object, Callable[[], None]] = field(init=False, default_factory=dict)
    _ended: bool = field(init=False, default=False)

    def end(self) -> None:
        """Shut every connection that is waited for."""
        with self._lock:
            self._ended = True
            waits = list(self._waits.values())
        for shut in waits:
            with suppress(Exception):  # it may have been closed meanwhile
                shut()

    def end_soon(self) -> None:
        """As `end`, but what is about to end by itself may: its connection can be used again."""
        with self._lock:
            is_waiting = bool(self._waits)
        if not is_waiting:
            self.end()
            return
        timer = threading.Timer(_SOON_S, self.end)
        timer.daemon = True
        timer.start()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let what this thread waits for meanwhile be ended."""
        before = current()
        _HERE.hangup = self
        try:
            yield
        finally:
            _HERE.hangup = before

    def _begin(self, shut: Callable[[], None]) -> object:
        """Note a wait.

        Raises:
            StoreError: the work was given up.
        """
        with self._lock:
            if self._ended:
                raise StoreError("expected work that somebody waits for; it was given up")
            name = object()
            self._waits[name] = shut
            return name

    def _done(self, name: object) -> None:
        with self._lock:
            del self._waits[name]


def current() -> Hangup | None:
    """What the waits of this thread belong to; None if nobody would end them."""
    return getattr(_HERE, "hangup", None)


@contextmanager
def interruptible(shut: Callable[[], None]) -> Iterator[None]:
    """Wait for a connection, which ``shut`` ends from any thread.

    Raises:
        StoreError: the work was given up before.
    """
    hangup = current()
    if hangup is None:
        yield
        return
    name = hangup._begin(shut)
    try:
        yield
    finally:
        hangup._done(name)
