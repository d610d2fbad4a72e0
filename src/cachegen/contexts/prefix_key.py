"""How the keys and values of a context came to be, and so under which ids they are known."""

from __future__ import annotations

from dataclasses import dataclass

from cachegen.bitstream.identity import LINK_TOKENS, Tokens, chain, context_id, seed


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """What two caches of equal tokens must share to be the same.

    Attributes:
        fingerprint: the model.
        salt: the tenant.
        extra: whatever else changes the KV of equal tokens.
        exact: computed without lossily loaded KV before it.
        complete: every layer holds every token, so any prefix of it is a cache too.
    """

    fingerprint: bytes
    salt: bytes = b""
    extra: bytes = b""
    exact: bool = True
    complete: bool = True

    @property
    def seed(self) -> bytes:
        """Where the chain of ids begins; every deviation from the plain case begins a new one."""
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
