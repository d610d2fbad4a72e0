"""Errors of obstore, translated into ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreTimeout

# Arbitrary: 100 to 1,000 do; a message of one line or two.
_REASON_LENGTH = 300


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Turn a failure of the backend into a StoreError that names the store and the action."""
    try:
        yield
    except FileNotFoundError as error:
        raise KeyNotFound(f"{url}: cannot {doing}: there is no such object") from error
    except (NotSupportedError, NotImplementedError) as error:
        raise StoreError(f"{url}: cannot {doing}: not supported: {_reason(error)}") from error
    except (BaseError, OSError) as error:
        raise _kind(error)(f"{url}: cannot {doing}: {_reason(error)}") from error


def _kind(error: Exception) -> type[StoreError]:
    """The class of our error; obstore tells a timeout only in the debug print of its message."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StoreDenied
    return StoreTimeout if "kind: Timeout" in str(error) else StoreError


def _reason(error: Exception) -> str:
    """The message's first line without query strings, which may hold access tokens."""
    first = str(error).partition("\n")[0]
    return re.sub(r"\?\S+", "?...", first)[:_REASON_LENGTH]
