"""A store for buckets: obstore says how requests are authorised, and our own client sends them.

So the answers have a most, of bytes and of seconds.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NoReturn
from urllib.parse import urlsplit

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreTimeout
from cachegen.forks import PerProcess
from cachegen.store.buckets.backend import check_threads
from cachegen.store.buckets.listing import keys_below
from cachegen.store.buckets.proxies import proxy_for
from cachegen.store.buckets.request import BucketRequest, Writer
from cachegen.store.http import Answer, Body, HttpClient, body_of, client, whole_size
from cachegen.store.protocol import Buffer, Opened, check_key, check_range
from cachegen.store.secrets import Secrets
from cachegen.store.sizes import sizes

_FAILURES: dict[int, type[StoreError]] = {
    401: StoreDenied,
    403: StoreDenied,
    404: KeyNotFound,
    408: StoreTimeout,
    504: StoreTimeout,
}
_REDIRECTS = (301, 302, 303, 307, 308)
_CREATED = (200, 201)
# R2 says 304, S3 412, and 409 while somebody else creates the object; Azure says 409 or 412.
_TAKEN = (304, 409, 412)
_DELETED = (200, 202, 204)
_REASON = re.compile(rb"<(Code|Message)>([^<]*)</")
# Azure deletes by a request that holds requests; the answer holds theirs.
_HELD_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Objects in a bucket; made by `connect`.

    It evicts nothing, so the parents of objects do not matter to it.

    Attributes:
        url: the store's name in messages, free of credentials.
        writer: of requests; it needs threads, which a forked child does not have.
        clients: of the servers that requests go to, by scheme, host and port: one as a rule.
        timeout_s: for a connection, the head of an answer, the next piece, a whole short answer.
    """

    url: str
    writer: Writer = field(repr=False)
    clients: PerProcess[dict[str, HttpClient]] = field(repr=False)
    timeout_s: float

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        asked = self._ask("PUT", key, f"put {key}", body=memoryview(data).cast("B"))
        if asked.answer.status not in (*_CREATED, *_TAKEN):
            asked.refuse()
        asked.said()
        return asked.answer.status in _CREATED

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        asked = self._ask("GET", key, f"get {key}", range=range)
        if asked.answer.status not in (200, 206):
            asked.refuse()
        return asked.opened(range)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        return sizes(keys, self._size)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        check_threads(self.url, f"list {prefix or 'all keys'}")
        return keys_below(self.url, prefix, timeout_s=self.timeout_s)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        asked = self._ask("DELETE", key, f"delete {key}")
        if asked.answer.status not in (*_DELETED, 404):
            asked.refuse()
        held = _HELD_STATUS.search(asked.said())
        if held is not None and int(held[1]) not in (*_DELETED, 404):
            asked.fail(int(held[1]), "")

    def _size(self, key: str) -> int | None:
        asked = self._ask("HEAD", key, f"look up {key}")
        if asked.answer.status not in (200, 404):
            asked.answer.close()
            asked.fail(asked.answer.status, "")
        found = None if asked.answer.status == 404 else asked.size()
        asked.said()
        return found

    def _ask(
        self,
        method: str,
        key: str,
        doing: str,
        *,
        range: tuple[int, int] | None = None,
        body: memoryview | None = None,
    ) -> _Asked:
        check_threads(self.url, doing)
        request = self.writer.write(method, key, range=range, body=body)
        found = self._client(request)
        parts = urlsplit(request.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        sent, headers = request.body, request.headers
        answer = found.ask(request.method, target, doing, body=sent, headers=headers)
        return _Asked(found, answer, doing)

    def _client(self, request: BucketRequest) -> HttpClient:
        """The client of the server that a request goes to, which shows nothing of the request."""
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        clients = self.clients()
        found = clients.get(origin)
        if found is None:
            proxy = proxy_for(parts.scheme, str(parts.hostname))
            made = client(
                str(parts.hostname),
                parts.port,
                url=self.url,
                authorization=None,
                secrets=Secrets(),
                tls=parts.scheme == "https",
                timeout_s=self.timeout_s,
                proxy=proxy,
            )
            found = clients.setdefault(origin, made)
        words = (*request.secrets.words, *found.secrets.words)
        return replace(found, secrets=Secrets(words))


@dataclass(frozen=True, slots=True)
class _Asked:
    """An answer, and what it answers."""

    client: HttpClient
    answer: Answer
    doing: str

    def opened(self, range: tuple[int, int] | None) -> Opened:
        """The object, or what was asked for of it."""
        body = body_of(self.client, self.answer, self.doing, asked=range)
        return Opened(self.size(), _pieces(body), body.modified_s)

    def size(self) -> int:
        """Of the whole object."""
        found = whole_size(self.answer)
        if found is None:
            self.answer.close()
            self.client.fail(self.doing, "expected the object's size, got none")
        return found

    def said(self) -> bytes:
        """What the server says beside a status."""
        return self.client.said(self.answer, self.doing)

    def refuse(self) -> NoReturn:
        """Raise the error of an unexpected status, with the server's own reason."""
        try:
            reason = _REASON.findall(self.said())
        except StoreError:
            reason = []
        self.fail(
            self.answer.status, ": ".join(text.decode(errors="replace") for _, text in reason)
        )

    def fail(self, status: int, reason: str) -> NoReturn:
        """Raise the error of a status."""
        if status in _REDIRECTS:
            reason = "the bucket is elsewhere: set its region or endpoint"
        why = f"status {status}, {reason}" if reason else f"status {status}"
        self.client.fail(self.doing, why, _FAILURES.get(status, StoreError))


def connect(name: str, *, timeout_s: float) -> ObjectStore:
    """The store at an ``s3://``, ``gs://`` or ``az://`` URL; no connection is made yet.

    Raises:
        StoreError: the account is not configured.
    """
    from cachegen.store.buckets.drafts import DraftedRequests
    from cachegen.store.buckets.signed import SignedRequests

    written = SignedRequests if name.startswith("s3:") else DraftedRequests
    return ObjectStore(name, written(name, timeout_s=timeout_s), PerProcess(dict), timeout_s)


def _pieces(body: Body) -> Generator[Buffer, None, None]:
    with closing(body):
        yield from body
