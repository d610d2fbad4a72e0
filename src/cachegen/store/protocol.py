"""The protocol of stores: five verbs, synchronous and thread-safe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from cachegen.errors import StoreError

Buffer = bytes | bytearray | memoryview


class Store(Protocol):
    """Immutable objects under keys.

    A key is made of segments of ``A-Z a-z 0-9 . _ -`` joined by ``/``, at most 512 characters;
    any other is a ValueError. A key does not continue another one: where ``a/b`` is an object,
    ``a/b/c`` cannot be. An object appears whole or not at all. Every method may raise
    StoreError, StoreTimeout where the store does not answer, or StoreDenied where it refuses
    the credentials.
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
        Closing the iterator ends the transfer.

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
