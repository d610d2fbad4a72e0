"""The client of `cachegen serve`: objects over plain HTTP, many sizes in one round trip."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull, StoreTimeout
from cachegen.store.http import SAID_BYTES, Answer, Body, HttpClient, body_of, client
from cachegen.store.protocol import MAX_KEY_LENGTH, Buffer, check_key, check_range, is_key
from cachegen.store.secrets import Secrets
from cachegen.store.wire import (
    LIST_PATH,
    LISTING_S,
    LOOKUP_PATH,
    MAX_LISTED_KEYS,
    MAX_LOOKUP_KEYS,
    PARENT_HEADER,
    PEEK_HEADER,
    RESERVED,
    USAGE_PATH,
    Usage,
)

# Of a size in the answer to a lookup: 19 digits of 2^63, a comma and a blank, and room.
_SIZE_LENGTH = 24
_LARGEST_SIZE = 2**63 - 1
_FAILURES: dict[int, type[StoreError]] = {
    401: StoreDenied,
    403: StoreDenied,
    404: KeyNotFound,
    408: StoreTimeout,
    504: StoreTimeout,
    507: StoreFull,
}


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Objects on a server that `cachegen serve` started; made by `connect`.

    Attributes:
        client: of that server.
        peeks: what is read does not count as used.
    """

    client: HttpClient
    peeks: bool = False

    @property
    def url(self) -> str:
        """See `Store.url`."""
        return self.client.url

    def put(self, key: str, data: Buffer, *, parent: str | None = None) -> bool:
        """See `Store.put`."""
        for name in (key,) if parent is None else (key, parent):
            check_key(name)
        view, doing = memoryview(data).cast("B"), f"put {key}"
        headers = {"Content-Length": str(len(view)), "If-None-Match": "*"}
        if parent is not None:
            headers[PARENT_HEADER] = parent
        answer = self.client.ask("PUT", self._path(key), doing, body=view, headers=headers)
        self._check(answer, doing, expected=(201, 412))
        self.client.said(answer, doing)
        return answer.status == 201

    def get(self, key: str, range: tuple[int, int] | None = None) -> Iterator[Buffer]:
        """See `Store.get`."""
        check_key(key)
        check_range(range)
        headers = {PEEK_HEADER: "1"} if self.peeks else {}
        if range is not None:
            headers["Range"] = f"bytes={range[0]}-{range[1] - 1}"
        answer = self.client.ask("GET", self._path(key), f"get {key}", headers=headers)
        self._check(answer, f"get {key}", expected=(200, 206))
        return body_of(self.client, answer, f"get {key}", asked=range)

    def lookup(self, keys: Sequence[str]) -> list[int | None]:
        """See `Store.lookup`."""
        for key in keys:
            check_key(key)
        sizes: list[int | None] = []
        while len(sizes) < len(keys):
            sizes += self._lookup(keys[len(sizes) : len(sizes) + MAX_LOOKUP_KEYS])
        return sizes

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`."""
        if prefix:
            check_key(prefix)
        doing = f"list {prefix or 'all keys'}"
        path = f"{LIST_PATH}?{urlencode({'prefix': prefix})}"
        answer = self.client.ask("GET", path, doing)
        self._check(answer, doing, expected=(200,))
        return self._keys(Body(self.client, answer, doing), doing)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        answer = self.client.ask("DELETE", self._path(key), f"delete {key}")
        self._check(answer, f"delete {key}", expected=(204,))
        self.client.said(answer, f"delete {key}")

    def usage(self) -> Usage:
        """What the client's tenant has stored, and its quotas.

        Raises:
            KeyNotFound: the server does not count, as it has neither quotas nor a capacity.
            StoreError: it does not tell.
        """
        doing = "tell what is stored"
        answer = self.client.ask("GET", USAGE_PATH, doing)
        self._check(answer, doing, expected=(200,))
        body = self.client.said(answer, doing)
        told: dict[str, Any] = {one.name: _field(body, one.name) for one in fields(Usage)}
        for name, found in told.items():
            if not _is_size(found) or (found is None and name in ("objects", "size_bytes")):
                self.client.fail(doing, f"expected a number as {name}, got another answer")
        return Usage(**told)

    def _lookup(self, keys: Sequence[str]) -> Sequence[int | None]:
        doing = f"look up {len(keys)} keys"
        body = memoryview(json.dumps({"keys": list(keys)}).encode())
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        answer = self.client.ask("POST", LOOKUP_PATH, doing, body=body, headers=headers)
        self._check(answer, doing, expected=(200,))
        max_bytes = SAID_BYTES + _SIZE_LENGTH * len(keys)
        sizes = _field(self.client.said(answer, doing, max_bytes=max_bytes), "sizes")
        if not isinstance(sizes, list) or [_is_size(size) for size in sizes] != [True] * len(keys):
            self.client.fail(doing, "expected their sizes, got another answer")
        return sizes

    def _keys(self, pieces: Body, doing: str) -> Iterator[str]:
        due_s = time.monotonic() + LISTING_S
        with closing(pieces):
            for number, line in enumerate(_lines(pieces)):
                key = line.decode("ascii", errors="replace")
                if not is_key(key):
                    self.client.fail(doing, "expected keys, got other bytes")
                if number >= MAX_LISTED_KEYS or time.monotonic() > due_s:
                    self.client.fail(
                        doing,
                        f"expected at most {MAX_LISTED_KEYS} keys within {LISTING_S:g} s, got "
                        "more; list below a prefix",
                    )
                yield key

    def _path(self, key: str) -> str:
        if key in RESERVED:
            raise StoreError(f"{self.url}: {key} is a page of the server and cannot be a key")
        return f"/{key}"

    def _check(self, answer: Answer, doing: str, *, expected: tuple[int, ...]) -> None:
        """Raise the error of an unexpected status, with the server's own reason."""
        if answer.status in expected:
            return
        try:
            reason = _field(self.client.said(answer, doing), "error")
        except StoreError:
            reason = None
        kind = _FAILURES.get(answer.status, StoreError)
        self.client.fail(doing, str(reason or f"status {answer.status}"), kind)


def connect(
    host: str, port: int, *, url: str, token: str | None, tls: bool, timeout_s: float
) -> RemoteStore:
    """A store on a server; no connection is made yet.

    Raises:
        ValueError: the token cannot be sent.
    """
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ValueError(f"{url}: expected a token of printable ASCII characters, got others")
    return RemoteStore(
        client(
            host,
            port,
            url=url,
            authorization=None if token is None else f"Bearer {token}",
            secrets=Secrets(() if token is None else (token,)),
            tls=tls,
            timeout_s=timeout_s,
        )
    )


def _lines(pieces: Iterator[Buffer]) -> Iterator[bytes]:
    """The lines of a body; a line longer than any key is given in part."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + bytes(piece)).split(b"\n")
        yield from lines
        if len(rest) > MAX_KEY_LENGTH:
            yield rest


def _field(body: bytes, name: str) -> object:
    """A field of a JSON object; None where the body is no object with it."""
    try:
        return json.loads(body)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_size(found: object) -> bool:
    return found is None or (type(found) is int and 0 <= found <= _LARGEST_SIZE)
