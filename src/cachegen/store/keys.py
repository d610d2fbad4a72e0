"""Which strings are keys: the same rule for every store, so that no key can leave its root."""

from __future__ import annotations

import re

from cachegen.errors import KeyNotFound, StoreError

# Our longest keys (FORMAT.md, section 5) take 289 characters, the namespace of a tenant included.
MAX_KEY_LENGTH = 512
_SEGMENTS = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")


def is_key(key: str) -> bool:
    """Whether a store takes this key."""
    if len(key) > MAX_KEY_LENGTH or _SEGMENTS.fullmatch(key) is None:
        return False
    return not {".", ".."} & set(key.split("/"))


def check_key(key: str) -> None:
    """Refuse what is not a key.

    Raises:
        ValueError: says what a key looks like.
    """
    if not is_key(key):
        raise ValueError(
            f"expected a key of segments [A-Za-z0-9._-] joined by '/', without '.' and '..', "
            f"at most {MAX_KEY_LENGTH} characters; got {key[:MAX_KEY_LENGTH]!r}"
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
