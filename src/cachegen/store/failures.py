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
# What follows is the server's, which may say again what proves who asks.
_OF_THE_SERVER = re.compile(r"(status code: [0-9]{3}[A-Za-z ]*|invalid list response).*", re.DOTALL)
_DENIED = re.compile(r"status code: 40[13]\b")


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Turn a failure of the backend into a StoreError that names the store and the action.

    The failure itself is not shown with it: it repeats requests and answers, secrets among them.
    """
    try:
        yield
    except FileNotFoundError:
        raise KeyNotFound(f"{url}: cannot {doing}: there is no such object") from None
    except (NotSupportedError, NotImplementedError) as error:
        raise StoreError(f"{url}: cannot {doing}: not supported: {_reason(error)}") from None
    except (BaseError, OSError) as error:
        raise _kind(error)(f"{url}: cannot {doing}: {_reason(error)}") from None


def _kind(error: Exception) -> type[StoreError]:
    """The class of our error; obstore tells a timeout only in the debug print of its message.

    Of a listing that is refused it tells the status only.
    """
    is_denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if is_denied or _DENIED.search(str(error).partition("\n")[0]):
        return StoreDenied
    return StoreTimeout if "kind: Timeout" in str(error) else StoreError


def _reason(error: Exception) -> str:
    """The message's first line without query strings and a server's words."""
    first = _OF_THE_SERVER.sub(r"\1", str(error).partition("\n")[0])
    return re.sub(r"\?\S+", "?...", first)[:_REASON_LENGTH]
