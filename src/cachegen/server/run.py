"""A server's process: its socket, its signals, its memory, its shutdown."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from cachegen.server.admission import Admission
from cachegen.server.app import make_app
from cachegen.server.connections import LimitedConnection
from cachegen.server.failures import FewLines
from cachegen.server.limits import Limits
from cachegen.server.listener import Listener
from cachegen.server.metrics import Metrics
from cachegen.server.objects.bounded_store import BoundedStore
from cachegen.server.objects.index import Index
from cachegen.server.tenants import Tenants
from cachegen.store import Store
from cachegen.store.folder import FolderStore
from cachegen.store.place import alone_in

_LOG = logging.getLogger("cachegen.server")
_FORGETS = (
    "without an index file a restart forgets the order of use, and which objects need which: "
    "what is evicted then may be a part of contexts that stay"
)
# Arbitrary: from `max_connections` on any number does; the system caps it (net.core.somaxconn).
_BACKLOG = 1024
# Arbitrary: 10 to 300 s do. A client that finds its connection closed asks once more.
_KEEP_ALIVE_S = 30
# A bound: a socket, and the object that is sent or the body that is received.
_FILES_A_CONNECTION = 2
# Arbitrary: 100 to 1,000 do. The index has three, a store's own connections are some dozens.
_OTHER_FILES = 256
# glibc's number of the option for it, in malloc.h. By default each thread has a heap of its own, up
# to eight for each core, and all keep what was freed: 180 MB after 40 connections with one object
# of 2 MB each way, 110 with one heap, at the same speed.
_M_ARENA_MAX = -8
# Arbitrary: 1 to 60 s do. To give back 60 MB takes 5 ms, nothing 0.3.
_GIVES_BACK_S = 3.0


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
        StoreError: the store cannot be listed, another process serves its folder or uses the index
            file, or that is damaged.
    """
    alone = alone_in(store.root) if isinstance(store, FolderStore) else nullcontext()
    with alone, closing(Index(index_path, namespaces=tenants.namespaces)) as index:
        _serve(store, tenants, index, address=address, limits=limits, logs=logs)


def _serve(
    store: Store,
    tenants: Tenants,
    index: Index,
    *,
    address: Address,
    limits: Limits,
    logs: bool,
) -> None:
    metrics = Metrics(index)
    bounded_store = BoundedStore(
        store,
        index=index,
        capacity_bytes=limits.capacity_bytes,
        on_evict=metrics.count_eviction,
    )
    is_limited = limits.capacity_bytes is not None or tenants.have_quotas
    if is_limited:
        bounded_store.sweep()
        bounded_store.scan()
    if limits.capacity_bytes is not None and index.path is None:
        _LOG.warning(_FORGETS)
    app = make_app(bounded_store, tenants, metrics=metrics, limits=limits, logs=logs)
    admission = Admission(limits.max_connections, tenants=len(tenants.known))
    server = _Server(_config(app, address, limits=limits), limits=limits, admission=admission)
    _ask_for_files(limits.max_connections)
    _LOG.addFilter(FewLines())
    _end_on_signals(server)
    tidying = bounded_store.tidying(scans=is_limited)
    with _listen(address) as listening, tidying, _giving_back():
        print(f"serving {store.url} at {_url(address, listening)}", flush=True)
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that counts its connections from their first packet on."""

    def __init__(self, config: uvicorn.Config, *, limits: Limits, admission: Admission) -> None:
        super().__init__(config)
        self._limits, self._admission = limits, admission

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        tls = self.config.ssl
        if tls is not None:
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
        listeners = [
            Listener(
                listening,
                self._connection,
                tls=tls,
                limits=self._limits,
                newcomers=self._admission.newcomers,
            )
            for listening in sockets or []
        ]
        self.servers = cast(list[asyncio.Server], listeners)
        self.started = True

    def _connection(self) -> LimitedConnection:
        return LimitedConnection(
            self.config, self.server_state, {}, limits=self._limits, admission=self._admission
        )


def _config(app: ASGIApp, address: Address, *, limits: Limits) -> uvicorn.Config:
    """The configuration of uvicorn. Of its log only errors: strangers can make it warn."""
    config = uvicorn.Config(
        app,
        ws="none",
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=limits.drain_s,
    )
    config.load()
    return config


def _ask_for_files(max_connections: int) -> None:
    """Raise the limit of open files, where the system allows it, to what the connections take."""
    needed = _FILES_A_CONNECTION * max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < granted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < needed:
        _LOG.warning("expected %d open files to be allowed, got %d", needed, granted)


@contextmanager
def _giving_back() -> Iterator[None]:
    """Give free memory back to the system every few seconds, while the context lasts.

    Where the C library is not glibc, nothing is done.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_M_ARENA_MAX, 1)
    ending = threading.Event()

    def give_back() -> None:
        while not ending.wait(_GIVES_BACK_S):
            library.malloc_trim(0)

    thread = threading.Thread(target=give_back, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


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
