"""The HTTP interface of a bounded store: what each path and method does.

Objects lie at ``/<key>`` for any HTTP client; `cachegen.store.wire` names the other paths.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from functools import partial
from typing import IO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cachegen.errors import KeyNotFound, StoreFull
from cachegen.server.access_log import AccessLog
from cachegen.server.bodies import (
    IN_MEMORY_BYTES,
    check_size,
    declared_size,
    make_spool,
    pieces_of,
)
from cachegen.server.connections import connection_of
from cachegen.server.failures import FAILURES
from cachegen.server.limits import Limits
from cachegen.server.metrics import CONTENT_TYPE, Metrics
from cachegen.server.objects.bounded_store import BoundedStore
from cachegen.server.ranges import span_of
from cachegen.server.shares import MAX_LOOKUP_BYTES, Share, Shares
from cachegen.server.streamed import Content, Streamed
from cachegen.server.tenants import Tenant, Tenants
from cachegen.store.protocol import is_key
from cachegen.store.wire import (
    LIST_PATH,
    LOOKUP_PATH,
    MAX_LOOKUP_KEYS,
    PARENT_HEADER,
    PEEK_HEADER,
    RESERVED,
    USAGE_PATH,
)

# Arbitrary: 64 to 4,096 do. Spares a change of threads for every key; a piece is 128 KiB at most.
_KEYS_A_PIECE = 256
# A bound on memory: two megabytes of JSON become up to fifty, so one body is parsed at a time.
_PARSING = threading.Lock()
# Who shows no token keeps no connection, whatever the answer.
_CLOSE = {"Connection": "close"}


def make_app(
    bounded_store: BoundedStore,
    tenants: Tenants,
    *,
    metrics: Metrics,
    limits: Limits,
    logs: bool = False,
) -> AccessLog:
    """The ASGI application of a server."""
    shares = Shares(len(tenants.known), max_object_bytes=limits.max_object_bytes)
    handlers = _Handlers(bounded_store, tenants, metrics, limits, shares)
    routes = [
        Route("/healthz", handlers.healthz),
        Route("/metrics", handlers.render_metrics),
        Route(LOOKUP_PATH, handlers.lookup, methods=["POST"]),
        Route(LIST_PATH, handlers.list_keys),
        Route(USAGE_PATH, handlers.usage),
        Route("/{key:path}", handlers.head, methods=["HEAD"]),
        Route("/{key:path}", handlers.get, methods=["GET"]),
        Route("/{key:path}", handlers.put, methods=["PUT"]),
        Route("/{key:path}", handlers.delete, methods=["DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers=FAILURES)
    return AccessLog(app, metrics, logs)


@dataclass(frozen=True, slots=True)
class _Handlers:
    bounded_store: BoundedStore
    tenants: Tenants
    metrics: Metrics
    limits: Limits
    shares: Shares

    async def healthz(self, request: Request) -> Response:
        """Answer that the process runs; the store is not asked."""
        return PlainTextResponse("ok\n", headers=_CLOSE)

    async def render_metrics(self, request: Request) -> Response:
        """Answer with the counters of all tenants together, for operators only.

        The connection stays a stranger's, so that it needs no room among the tenants'.
        """
        if not (await self._tenant(request)).operator:
            raise HTTPException(403, "metrics are of all tenants: expected an operator's token")
        return Response(self.metrics.render(), media_type=CONTENT_TYPE, headers=_CLOSE)

    async def head(self, request: Request) -> Response:
        """Answer with an object's size."""
        tenant, share = await self._admit(request)
        key = _full(tenant, request.path_params["key"])
        (size_bytes,) = await share.in_thread(self.bounded_store.lookup, [key])
        if size_bytes is None:
            raise KeyNotFound(key)
        return Response(headers=_headers(size_bytes))

    async def get(self, request: Request) -> Response:
        """Answer with an object, or with a range of it."""
        tenant, share = await self._admit(request)
        key = _full(tenant, request.path_params["key"])
        peeks, wanted = PEEK_HEADER in request.headers, request.headers.get("range")
        return Streamed(_object(self.bounded_store, key, wanted, peeks=peeks), share)

    async def put(self, request: Request) -> Response:
        """Create an object: 201, or 412 where there is one.

        A large object that cannot be stored is refused before its bytes are received.
        """
        (tenant, share), name = await self._admit(request), request.path_params["key"]
        if name in RESERVED:
            raise HTTPException(400, f"expected a key other than {', '.join(RESERVED)}")
        key, parent = _full(tenant, name), request.headers.get(PARENT_HEADER)
        put = partial(
            self.bounded_store.put,
            key,
            parent=None if parent is None else _full(tenant, parent),
            quota_bytes=tenant.quota_bytes,
            quota_objects=tenant.quota_objects,
        )
        size_bytes = declared_size(request, max_bytes=self.limits.max_object_bytes)
        admits = partial(
            self.bounded_store.admits,
            key,
            quota_bytes=tenant.quota_bytes,
            quota_objects=tenant.quota_objects,
        )
        if _is_large(size_bytes) and not await share.in_thread(admits, size_bytes or 0):
            return Response(status_code=412)
        max_bytes = self._left_bytes(tenant, key) if size_bytes is None else size_bytes
        created = await self._take(request, put, max_bytes=max_bytes, share=share)
        return Response(status_code=201 if created else 412)

    async def delete(self, request: Request) -> Response:
        """Remove an object, if there is one."""
        tenant, share = await self._admit(request)
        await share.in_thread(self.bounded_store.delete, _full(tenant, request.path_params["key"]))
        return Response(status_code=204)

    async def lookup(self, request: Request) -> Response:
        """Answer ``{"keys": [...]}`` with ``{"sizes": [...]}``; null where there is no object."""
        (tenant, share), body = await self._admit(request), bytearray()
        check = partial(check_size, max_bytes=MAX_LOOKUP_BYTES)
        size_bytes = declared_size(request, max_bytes=MAX_LOOKUP_BYTES)
        with share.lookups.holding(MAX_LOOKUP_BYTES if size_bytes is None else size_bytes):
            async for piece in pieces_of(request, check=check, patience_s=self.limits.patience_s):
                body += piece
            sizes = await share.in_thread(self._sizes, tenant, body)
        return JSONResponse({"sizes": sizes})

    async def list_keys(self, request: Request) -> Response:
        """Answer with the keys below ``?prefix=``, one a line."""
        (tenant, share), prefix = await self._admit(request), request.query_params.get("prefix", "")
        below = _full(tenant, prefix, empty=True)
        return Streamed(_listing(self.bounded_store, tenant, below), share)

    async def usage(self, request: Request) -> Response:
        """Answer with what the tenant has stored, and its quotas."""
        tenant, _ = await self._admit(request)
        usage = self.bounded_store.usage(tenant.namespace)
        if usage is None:
            raise HTTPException(404, "objects are counted with a quota or a capacity only")
        quotas = {"quota_objects": tenant.quota_objects, "quota_bytes": tenant.quota_bytes}
        return JSONResponse({**asdict(usage), **quotas})

    def _sizes(self, tenant: Tenant, body: bytearray) -> list[int | None]:
        return self.bounded_store.lookup([_full(tenant, key) for key in _keys_in(body)])

    async def _take(
        self, request: Request, put: partial[bool], *, max_bytes: int, share: Share
    ) -> bool:
        check, size_bytes = partial(self._check, max_bytes=max_bytes), 0
        with share.uploads.holding(max_bytes), make_spool() as spool:
            async for piece in pieces_of(request, check=check, patience_s=self.limits.patience_s):
                size_bytes += len(piece)
                if _is_large(size_bytes):
                    await share.in_thread(spool.write, piece)
                else:
                    spool.write(piece)
            async with share.large_put() if _is_large(size_bytes) else nullcontext():
                return await share.in_thread(_put_spooled, put, spool)

    def _check(self, size_bytes: int, max_bytes: int) -> None:
        check_size(size_bytes, self.limits.max_object_bytes)
        if size_bytes > max_bytes:
            raise StoreFull(f"expected at most {max_bytes} more bytes, got {size_bytes} or more")

    def _left_bytes(self, tenant: Tenant, key: str) -> int:
        """The most that a body of unknown size may bring."""
        left_bytes = self.bounded_store.left_bytes(key, quota_bytes=tenant.quota_bytes)
        max_bytes = self.limits.max_object_bytes
        return max_bytes if left_bytes is None else min(max_bytes, left_bytes)

    async def _admit(self, request: Request) -> tuple[Tenant, Share]:
        """The tenant that a request is from, to whom its connection then belongs."""
        tenant = await self._tenant(request)
        connection = connection_of(request.scope)
        if connection is not None and not connection.claim(tenant.name):
            raise HTTPException(503, "too many connections: try again later", headers=_CLOSE)
        return tenant, self.shares.of(tenant)

    async def _tenant(self, request: Request) -> Tenant:
        authorization = request.headers.get("authorization")
        tenant = self.tenants.find(authorization)
        if tenant is None:
            if authorization is not None:
                await asyncio.sleep(self.limits.refusal_s)
            headers = {"WWW-Authenticate": 'Bearer realm="cachegen"', **_CLOSE}
            raise HTTPException(401, "expected a valid token", headers=headers)
        request.scope["tenant"] = tenant.name
        return tenant


def _full(tenant: Tenant, key: str, *, empty: bool = False) -> str:
    """The key in the store, where each tenant has a folder."""
    full = "/".join(part for part in (tenant.namespace, key) if part)
    if not (is_key(full) and is_key(key)) and not (empty and not key):
        raise HTTPException(400, "expected a key of segments [A-Za-z0-9._-] joined by '/'")
    return full


@contextmanager
def _object(
    bounded_store: BoundedStore, key: str, wanted: str | None, *, peeks: bool
) -> Iterator[Content]:
    with bounded_store.reading(key, partial(span_of, wanted), peeks=peeks) as reading:
        size_bytes = reading.stop - reading.start
        status, headers = 200, _headers(size_bytes)
        if reading.modified_s is not None:
            with suppress(ValueError, OverflowError, OSError):  # files may have any time
                headers["last-modified"] = formatdate(reading.modified_s, usegmt=True)
        if size_bytes < reading.size_bytes:
            status = 206
            span = f"{reading.start}-{reading.stop - 1}/{reading.size_bytes}"
            headers["content-range"] = f"bytes {span}"
        yield Content(status, headers, reading.buffers, size_bytes)


def _headers(size_bytes: int) -> dict[str, str]:
    return {
        "content-length": str(size_bytes),
        "content-type": "application/octet-stream",
        "accept-ranges": "bytes",
    }


@contextmanager
def _listing(bounded_store: BoundedStore, tenant: Tenant, prefix: str) -> Iterator[Content]:
    skipped = len(tenant.namespace) + 1 if tenant.namespace else 0
    with bounded_store.listing(prefix) as keys:
        lines = (f"{key[skipped:]}\n".encode() for key in keys)
        pieces = iter(lambda: b"".join(itertools.islice(lines, _KEYS_A_PIECE)), b"")
        yield Content(200, {"content-type": "text/plain"}, pieces)


def _is_large(size_bytes: int | None) -> bool:
    return size_bytes is None or size_bytes > IN_MEMORY_BYTES


def _put_spooled(put: partial[bool], spool: IO[bytes]) -> bool:
    spool.seek(0)
    return put(spool.read())


def _keys_in(body: bytes | bytearray) -> list[str]:
    with _PARSING:
        keys = _strings_in(body)
    if keys is None:
        raise HTTPException(400, f'expected {{"keys": [...]}} with at most {MAX_LOOKUP_KEYS} keys')
    return keys


def _strings_in(body: bytes | bytearray) -> list[str] | None:
    try:
        keys = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    few = isinstance(keys, list) and len(keys) <= MAX_LOOKUP_KEYS
    return keys if few and all(isinstance(key, str) for key in keys) else None
