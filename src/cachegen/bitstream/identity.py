"""Names for token sequences: a chain of SHA-256 digests (FORMAT.md, section 4).

Every id covers the tokens from the context's first on, so equal ids mean equal prefixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict

import numpy as np
from numpy.typing import NDArray

from cachegen.errors import BitstreamError

# FORMAT.md, section 4.
LINK_TOKENS = 64
TOKEN_BYTES = 4

_TAG = b"cachegen identity 1"
_LINK_BYTES = LINK_TOKENS * TOKEN_BYTES

Tokens = Sequence[int] | NDArray[Any]


def seed(fingerprint: bytes, *, salt: bytes = b"", extra: bytes = b"") -> bytes:
    """Where the chain of a model and tenant begins.

    Args:
        fingerprint: SHA-256 that identifies the model.
        salt: keeps tenants apart; who does not know it cannot guess ids.
        extra: whatever else changes the KV of equal tokens: adapters, images, lossy prefixes.
    """
    if len(fingerprint) != 32:
        raise ValueError(f"expected a fingerprint of 32 bytes, got {len(fingerprint)}")
    digest = hashlib.sha256(_TAG)
    for part in (fingerprint, salt, extra):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def chain(tokens: Tokens, seed: bytes) -> list[bytes]:
    """The ids of the first 64, 128, 192, ... tokens, as far as there are so many.

    Raises:
        ValueError: tokens that are not unsigned 32-bit integers.
    """
    return _chain(memoryview(tokens_to_bytes(tokens)), seed)


def context_id(tokens: Tokens, seed: bytes) -> bytes:
    """The id of exactly these tokens.

    Raises:
        ValueError: no tokens, or tokens that are not unsigned 32-bit integers.
    """
    data = memoryview(tokens_to_bytes(tokens))
    if not data:
        raise ValueError("expected at least one token, got none")
    ids = _chain(data, seed)
    tail = data[len(ids) * _LINK_BYTES :]
    last = ids[-1] if ids else seed
    return _link(last, tail) if tail else last


def tokens_to_bytes(tokens: Tokens) -> bytes:
    """Token ids as little-endian unsigned 32-bit integers.

    Raises:
        ValueError: tokens that are not unsigned 32-bit integers.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"expected a flat sequence of integers, got {array.dtype} of shape {array.shape}"
        )
    if array.size and (array.min() < 0 or array.max() >= 2**32):
        raise ValueError(
            f"expected token ids from 0 to 2**32 - 1, got {array.min()} to {array.max()}"
        )
    return array.astype("<u4").tobytes()


def tokens_from_bytes(data: bytes | bytearray | memoryview) -> NDArray[np.uint32]:
    """The inverse of `tokens_to_bytes`, a read-only view.

    Raises:
        BitstreamError: bytes that are no whole number of tokens.
    """
    view = memoryview(data).cast("B").toreadonly()
    if len(view) % TOKEN_BYTES:
        raise BitstreamError(
            f"expected a multiple of {TOKEN_BYTES} bytes, got {len(view)}", field="tokens"
        )
    return np.frombuffer(view, dtype=np.uint32)


def _chain(data: memoryview, seed: bytes) -> list[bytes]:
    ids = []
    parent = seed
    for first in range(0, len(data) - _LINK_BYTES + 1, _LINK_BYTES):
        parent = _link(parent, data[first : first + _LINK_BYTES])
        ids.append(parent)
    return ids


def _link(parent: bytes, tokens: memoryview) -> bytes:
    digest = hashlib.sha256(parent)
    digest.update(tokens)
    return digest.digest()


class Identity(TypedDict, total=False):
    """What `save` and `load` are told of a context beside its tokens.

    Attributes:
        fingerprint: SHA-256 that identifies the model.
        salt: the tenant, who sees only what was saved with the same salt.
        extra: anything else that changes the KV of equal tokens (adapters, images).
        exact: whether the KV was computed without lossily loaded KV before it; true by default.
    """

    fingerprint: Required[bytes]
    salt: bytes
    extra: bytes
    exact: bool


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """What two caches of equal tokens must have in common to be the same.

    Attributes:
        fingerprint, salt, extra, exact: as in `Identity`.
        complete: every layer holds every token, so that any prefix is a cache too.
    """

    fingerprint: bytes
    salt: bytes = b""
    extra: bytes = b""
    exact: bool = True
    complete: bool = True

    @property
    def seed(self) -> bytes:
        """First link of the chain of ids; inexact and incomplete caches have their own chains."""
        start = seed(self.fingerprint, salt=self.salt, extra=self.extra)
        if not self.exact:
            start = seed(start, extra=b"inexact")
        if not self.complete:
            start = seed(start, extra=b"snapshot")
        return start


class Ids:
    """The ids of a context's prefixes."""

    def __init__(self, tokens: Tokens, prefix_key: PrefixKey) -> None:
        """Hash the tokens once."""
        self._tokens, self._seed = tokens, prefix_key.seed
        self._chain = chain(tokens, self._seed)

    def of(self, num_tokens: int) -> bytes:
        """The id of the first ``num_tokens`` tokens."""
        if num_tokens % LINK_TOKENS:
            return context_id(self._tokens[:num_tokens], self._seed)
        return self._chain[num_tokens // LINK_TOKENS - 1]
