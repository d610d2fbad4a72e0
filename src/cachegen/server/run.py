"""A server's process: its socket, its signals, its shutdown."""

from __future__ import annotations

import logging
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from cachegen.server.app import make_app
from cachegen.server.bounded_store import BoundedStore
from cachegen.server.connections import LimitedConnection
from cachegen.server.index import Index
from cachegen.server.metrics import Metrics
from cachegen.server.tenants import Tenants
from cachegen.store import Store

_LOG = logging.getLogger("cachegen.server")
_FORGETS = (
    "without an index file a restart forgets the order of use, and which objects need which: "
    "what is evicted then may be a part of contexts that stay"
)
# Arbitrary: from `max_connections` on any number does; the system caps it (net.core.somaxconn).
_BACKLOG = 1024
# Arbitrary: 10 to 300 s do. A client that finds its connection closed asks once more.
_KEEP_ALIVE_S = 30


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        max_object_bytes: size of the largest object. A raw chunk of 1,536 tokens takes 0.8 GB
            where a token takes 512 KiB, as in Llama-2-7B.
        capacity_bytes: the most that all objects together may take; beyond it the least recently
            used are evicted. None: nothing is evicted.
        max_connections: the most connections of clients at once, idle ones too. Arbitrary: 64 to
            900 do, under the usual limit of 1,024 open files.
        drain_s: seconds that transfers may go on after SIGTERM. Arbitrary: 5 to 80 do, within the
            90 s that systemd waits.
    """

    max_object_bytes: int = 1 << 30
    capacity_bytes: int | None = None
    max_connections: int = 512
    drain_s: int = 30


@dataclass(frozen=True, slots=True)
class Address:
    """The address that a server listens on; with a certificate and its key it speaks TLS."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None


def serve(
    store: Store,
    tenants: Tenants,
    *,
    address: Address,
    limits: Limits,
    index_path: Path | None = None,
    logs: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then let transfers finish.

    Prints one line, ``serving STORE at URL``, once connections are accepted.

    Raises:
        OSError: the address cannot be listened on, or the certificate cannot be read.
        StoreError: the store cannot be listed, or the index file is damaged.
    """
    index = Index(index_path, namespaces=tenants.namespaces)
    metrics = Metrics(index)
    bounded_store = BoundedStore(
        store,
        index=index,
        capacity_bytes=limits.capacity_bytes,
        on_evict=metrics.count_eviction,
    )
    if limits.capacity_bytes is not None or tenants.have_quotas:
        bounded_store.scan()
    if limits.capacity_bytes is not None and index_path is None:
        _LOG.warning(_FORGETS)
    app = make_app(
        bounded_store, tenants, metrics=metrics, max_object_bytes=limits.max_object_bytes, logs=logs
    )
    config = _config(app, address, limits=limits)
    server = uvicorn.Server(config)
    _end_on_signals(server)
    with _listen(address) as listening:
        print(f"serving {store.url} at {_url(address, listening)}", flush=True)
        server.run(sockets=[listening])
    index.close()


def _config(app: ASGIApp, address: Address, *, limits: Limits) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        limit_concurrency=limits.max_connections,
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=limits.drain_s,
    )
    config.load()
    return config


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)


def _end_on_signals(server: uvicorn.Server) -> None:
    """Let no signal kill the process.

    One may come before uvicorn listens to signals, and uvicorn raises its own once more after its
    end.
    """

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _url(address: Address, listening: socket.socket) -> str:
    scheme = "http" if address.tls_cert is None else "https"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
