"""A request to a bucket, ready to be sent, and who writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from cachegen.store.secrets import Secrets

# Of a query and of headers, in small letters: they show who asks, to whoever sees them.
_SECRET = ("x-amz-signature", "x-amz-security-token", "x-amz-credential", "sig")
_SECRET_HEADERS = ("authorization", "x-ms-encryption-key")


@dataclass(frozen=True, slots=True)
class BucketRequest:
    """A request with all that proves who asks.

    Attributes:
        method: of HTTP.
        url: of the object, with its query.
        headers: all but those of the connection.
        body: what is sent.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: memoryview | None = field(default=None, repr=False)

    @property
    def secrets(self) -> Secrets:
        """What no message may show."""
        query = urlsplit(self.url).query
        words = [query]
        words += [value for name, value in parse_qsl(query) if name.lower() in _SECRET]
        for name, value in self.headers.items():
            if name.lower() in _SECRET_HEADERS:
                words += [value, value.split()[-1]] if value.split() else []
        return Secrets(tuple(words))


class Writer(Protocol):
    """Writes requests to one bucket."""

    def write(
        self, method: str, key: str, *, range: tuple[int, int] | None, body: memoryview | None
    ) -> BucketRequest:
        """A request for an object; PUT creates it only where there is none.

        Raises:
            StoreError: there are no credentials.
        """
        ...
