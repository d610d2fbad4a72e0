"""The client of any HTTP server that serves files: objects to read."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreTimeout
from cachegen.store.http import Answer, HttpClient, body_of, client, whole_size
from cachegen.store.protocol import Buffer, check_key, check_range
from cachegen.store.secrets import Secrets
from cachegen.store.sizes import sizes

# From a name without a slash to one with it, or to a new folder. Arbitrary: 1 to 10 do.
_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_FAILURES: dict[int, type[StoreError]] = {
    401: StoreDenied,
    403: StoreDenied,
    404: KeyNotFound,
    408: StoreTimeout,
    410: KeyNotFound,
    504: StoreTimeout,
}


@dataclass(frozen=True, slots=True)
class FileServerStore:
    """Objects behind an HTTP server, read-only; made by `connect`.

    A redirect is followed to the same scheme, host and port only, three times at most.

    Attributes:
        client: of the server.
        path: of the folder of objects, with a slash at its end.
    """

    client: HttpClient
    path: str

    @property
    def url(self) -> str:
        """See `Store.url`."""
        return self.client.url

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """Refuse to write.

        Raises:
            StoreError: always.
        """
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        raise self._read_only(f"put {key}")

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        headers = {} if range is None else {"Range": f"bytes={range[0]}-{range[1] - 1}"}
        answer = self._ask("GET", key, f"get {key}", headers)
        if answer.status not in (200, 206):
            raise self._failure(answer, f"get {key}")
        return body_of(self.client, answer, f"get {key}", asked=range)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        return sizes(keys, self._size)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Refuse to list.

        Raises:
            StoreError: always.
        """
        if prefix:
            check_key(prefix)
        raise self._read_only(f"list {prefix or 'all keys'}")

    def delete(self, key: str) -> None:
        """Refuse to delete.

        Raises:
            StoreError: always.
        """
        check_key(key)
        raise self._read_only(f"delete {key}")

    def _size(self, key: str) -> int | None:
        doing = f"look up {key}"
        answer = self._ask("HEAD", key, doing, {})
        is_absent = _FAILURES.get(answer.status) is KeyNotFound
        if answer.status != 200 and not is_absent:
            raise self._failure(answer, doing)
        size_bytes = None if is_absent else whole_size(answer)
        if size_bytes is None and not is_absent:
            answer.close()
            self.client.fail(doing, "expected the object's size as Content-Length, got none")
        self.client.said(answer, doing)
        return size_bytes

    def _ask(self, method: str, key: str, doing: str, headers: dict[str, str]) -> Answer:
        path = self.path + key
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self.client.ask(method, path, doing, headers=headers)
            if answer.status not in _REDIRECTS:
                return answer
            path = self._elsewhere(answer, path, doing)
        self.client.fail(doing, f"expected at most {_MOST_REDIRECTS} redirects, got more")

    def _elsewhere(self, answer: Answer, path: str, doing: str) -> str:
        """Where a redirect leads to on this server.

        Raises:
            StoreError: it leads to another server.
        """
        answer.close()
        here = urlsplit(self.url)
        try:
            there = urlsplit(
                urljoin(f"{here.scheme}://{here.netloc}{path}", answer.headers["Location"])
            )
            is_same = _server(there) == _server(here)
        except (KeyError, ValueError):
            self.client.fail(doing, f"expected an object, got status {answer.status}")
        if not is_same:
            self.client.fail(
                doing,
                f"expected a redirect to {here.scheme}://{here.netloc}, got one to another server; "
                "name that one in the store's URL",
            )
        return f"{there.path}?{there.query}" if there.query else there.path

    def _failure(self, answer: Answer, doing: str) -> StoreError:
        """The error of a status; what the server says beside it is not read."""
        answer.close()
        kind = _FAILURES.get(answer.status, StoreError)
        return kind(f"{self.url}: cannot {doing}: status {answer.status}")

    def _read_only(self, doing: str) -> StoreError:
        return StoreError(
            f"{self.url}: cannot {doing}: a plain HTTP server is read-only (it cannot "
            "create-if-absent nor list); write to the directory or bucket it serves"
        )


def connect(parts: SplitResult, *, url: str, timeout_s: float) -> FileServerStore:
    """The store at an ``http://`` or ``https://`` URL; no connection is made yet."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    is_anonymous = parts.username is None
    http = client(
        str(parts.hostname),
        parts.port,
        url=url,
        authorization=None if is_anonymous else f"Basic {token}",
        secrets=Secrets(() if is_anonymous else (token, password, user)),
        tls=parts.scheme == "https",
        timeout_s=timeout_s,
    )
    return FileServerStore(http, f"{parts.path.rstrip('/')}/")


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
