"""Ids of a context's prefixes, from its tokens and from how its KV was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Required, TypedDict

from cachegen.bitstream.identity import LINK_TOKENS, Tokens, chain, context_id, seed


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
