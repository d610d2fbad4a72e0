"""The HTTP interface of a bounded store: what each path and method does.

Objects lie at ``/<key>`` for any HTTP client; `cachegen.store.wire` names the other paths.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cachegen.errors import KeyNotFound
from cachegen.server.access_log import AccessLog
from cachegen.server.bodies import (
    IN_MEMORY_BYTES,
    Uploads,
    check_size,
    declared_size,
    make_spool,
    receive_body,
)
from cachegen.server.bounded_store import BoundedStore
from cachegen.server.failures import FAILURES
from cachegen.server.metrics import CONTENT_TYPE, Metrics
from cachegen.server.ranges import span_of
from cachegen.server.streamed import Content, Streamed
from cachegen.server.tenants import Tenant, Tenants
from cachegen.store.protocol import MAX_KEY_LENGTH, is_key
from cachegen.store.wire import LIST_PATH, LOOKUP_PATH, MAX_LOOKUP_KEYS, PARENT_HEADER, RESERVED

# A bound: the most keys, each as long as allowed with quotes, comma and space; 4 bytes to spare.
_MAX_LOOKUP_BYTES = (MAX_KEY_LENGTH + 8) * MAX_LOOKUP_KEYS
# Arbitrary: 64 to 4,096 do. Spares a change of threads for every key; a piece is 128 KiB at most.
_KEYS_A_PIECE = 256
# A bound on memory: a large body is read whole to be stored, so two take twice the largest object.
_LARGE_PUTS = 2
# A bound on all unfinished uploads, in objects of the largest size. Arbitrary: 2 to 16 do.
_LARGEST_AT_ONCE = 4


def make_app(
    bounded_store: BoundedStore,
    tenants: Tenants,
    *,
    metrics: Metrics,
    max_object_bytes: int,
    logs: bool = False,
) -> AccessLog:
    """The ASGI application of a server."""
    uploads = Uploads(_LARGEST_AT_ONCE * max_object_bytes)
    handlers = _Handlers(bounded_store, tenants, metrics, max_object_bytes, uploads)
    routes = [
        Route("/healthz", handlers.healthz),
        Route("/metrics", handlers.render_metrics),
        Route(LOOKUP_PATH, handlers.lookup, methods=["POST"]),
        Route(LIST_PATH, handlers.list_keys),
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
    max_object_bytes: int
    uploads: Uploads
    large_puts: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, _LARGE_PUTS))

    async def healthz(self, request: Request) -> Response:
        """Answer that the process runs; the store is not asked."""
        return PlainTextResponse("ok\n")

    async def render_metrics(self, request: Request) -> Response:
        """Answer with the counters of all tenants together, for operators only."""
        if not self._tenant(request).operator:
            raise HTTPException(403, "metrics are of all tenants: expected an operator's token")
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    async def head(self, request: Request) -> Response:
        """Answer with an object's size."""
        key = _full(self._tenant(request), request.path_params["key"])
        (size_bytes,) = await run_in_threadpool(self.bounded_store.lookup, [key])
        if size_bytes is None:
            raise KeyNotFound(key)
        return Response(headers=_headers(size_bytes))

    async def get(self, request: Request) -> Response:
        """Answer with an object, or with a range of it."""
        key = _full(self._tenant(request), request.path_params["key"])
        return Streamed(_object(self.bounded_store, key, request.headers.get("range")))

    async def put(self, request: Request) -> Response:
        """Create an object: 201, or 412 where there is one.

        A large object that cannot be stored is refused before its bytes are received.
        """
        tenant, name = self._tenant(request), request.path_params["key"]
        if name in RESERVED:
            raise HTTPException(400, f"expected a key other than {', '.join(RESERVED)}")
        key, parent = _full(tenant, name), request.headers.get(PARENT_HEADER)
        put = partial(
            self.bounded_store.put,
            key,
            parent=None if parent is None else _full(tenant, parent),
            quota_bytes=tenant.quota_bytes,
        )
        declared_bytes = declared_size(request, max_bytes=self.max_object_bytes)
        admits = partial(self.bounded_store.admits, key, quota_bytes=tenant.quota_bytes)
        if _is_large(declared_bytes) and not await run_in_threadpool(admits, declared_bytes or 0):
            return Response(status_code=412)
        created = await self._take(request, put, declared_bytes)
        return Response(status_code=201 if created else 412)

    async def delete(self, request: Request) -> Response:
        """Remove an object, if there is one."""
        key = _full(self._tenant(request), request.path_params["key"])
        await run_in_threadpool(self.bounded_store.delete, key)
        return Response(status_code=204)

    async def lookup(self, request: Request) -> Response:
        """Answer ``{"keys": [...]}`` with ``{"sizes": [...]}``; null where there is no object."""
        tenant, body = self._tenant(request), bytearray()
        async for piece in request.stream():
            body += piece
            check_size(len(body), _MAX_LOOKUP_BYTES)
        keys = [_full(tenant, key) for key in _keys_in(body)]
        return JSONResponse({"sizes": await run_in_threadpool(self.bounded_store.lookup, keys)})

    async def list_keys(self, request: Request) -> Response:
        """Answer with the keys below ``?prefix=``, one a line."""
        tenant, prefix = self._tenant(request), request.query_params.get("prefix", "")
        return Streamed(_listing(self.bounded_store, tenant, _full(tenant, prefix, empty=True)))

    async def _take(self, request: Request, put: partial[bool], declared_bytes: int | None) -> bool:
        max_bytes = self.max_object_bytes
        held_bytes = max_bytes if declared_bytes is None else declared_bytes
        with self.uploads.holding(held_bytes), make_spool() as spool:
            size_bytes = await receive_body(request, spool, max_bytes=max_bytes)
            async with self.large_puts if _is_large(size_bytes) else nullcontext():
                return await run_in_threadpool(_put_spooled, put, spool)

    def _tenant(self, request: Request) -> Tenant:
        tenant = self.tenants.find(request.headers.get("authorization"))
        if tenant is None:
            headers = {"WWW-Authenticate": 'Bearer realm="cachegen"', "Connection": "close"}
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
def _object(bounded_store: BoundedStore, key: str, wanted: str | None) -> Iterator[Content]:
    with bounded_store.reading(key, partial(span_of, wanted)) as reading:
        size_bytes = reading.stop - reading.start
        status, headers = 200, _headers(size_bytes)
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
    lines = (f"{key[skipped:]}\n".encode() for key in bounded_store.store.list(prefix))
    pieces = iter(lambda: b"".join(itertools.islice(lines, _KEYS_A_PIECE)), b"")
    yield Content(200, {"content-type": "text/plain"}, pieces)


def _is_large(size_bytes: int | None) -> bool:
    return size_bytes is None or size_bytes > IN_MEMORY_BYTES


def _put_spooled(put: partial[bool], spool: IO[bytes]) -> bool:
    spool.seek(0)
    return put(spool.read())


def _keys_in(body: bytes | bytearray) -> list[str]:
    try:
        keys = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = None
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or len(keys) > MAX_LOOKUP_KEYS:
        raise HTTPException(400, f'expected {{"keys": [...]}} with at most {MAX_LOOKUP_KEYS} keys')
    return list(keys)
