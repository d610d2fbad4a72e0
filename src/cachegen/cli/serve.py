"""`serve`: a store behind HTTP."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer

# A bound that keeps sums exact: 10^18 bytes are below 2^63, the largest number of an index.
_MOST_MB = 1e12

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store", help="Folder, or URL: redis:// rediss:// s3:// gs:// az:// file:// memory:"
    ),
]


def serve(
    store: StoreUrl,
    host: Annotated[
        str, typer.Option(help="Address to listen on.", rich_help_panel="Listening")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="Port to listen on; 0: any that is free.",
            min=0,
            max=65535,
            rich_help_panel="Listening",
        ),
    ] = 8080,
    tenants: Annotated[
        Path | None,
        typer.Option(
            help="TOML or JSON file of tenants and their bearer tokens.",
            rich_help_panel="Who may ask",
        ),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(hidden=True, help="What --tenants was called before.")
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option(
            help="Without --tenants, listen beyond this machine all the same.",
            rich_help_panel="Who may ask",
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM).", rich_help_panel="Who may ask")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key (PEM).", rich_help_panel="Who may ask")
    ] = None,
    max_object_mb: Annotated[
        float,
        typer.Option(
            help="Largest object; unfinished uploads of a tenant may hold four of these.",
            min=0,
            max=_MOST_MB,
            rich_help_panel="How much is kept",
        ),
    ] = 1024.0,
    quota_mb: Annotated[
        float | None,
        typer.Option(
            help="What each tenant may store; default: any amount.",
            min=0,
            max=_MOST_MB,
            rich_help_panel="How much is kept",
        ),
    ] = None,
    quota_objects: Annotated[
        int | None,
        typer.Option(
            help="How many objects each tenant may have; default: what --quota-mb allows.",
            min=0,
            rich_help_panel="How much is kept",
        ),
    ] = None,
    capacity_mb: Annotated[
        float | None,
        typer.Option(
            help="What all may store; who takes most makes room, with what is used least.",
            min=0,
            max=_MOST_MB,
            rich_help_panel="How much is kept",
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps the order of eviction over restarts.",
            rich_help_panel="How much is kept",
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option(help="Connections at once, idle ones too.", rich_help_panel="Listening")
    ] = 512,
    drain_s: Annotated[
        int,
        typer.Option(help="Time for running transfers after SIGTERM.", rich_help_panel="Listening"),
    ] = 30,
    access_log: Annotated[
        bool, typer.Option(help="One JSON line a request, on stderr.", rich_help_panel="Listening")
    ] = False,
) -> None:
    """Serve a store over HTTP: tenants, quotas, eviction, metrics."""
    from cachegen.server.limits import Limits
    from cachegen.server.run import Address
    from cachegen.server.run import serve as run
    from cachegen.server.tenants import anonymous
    from cachegen.server.tenants_file import read_tenants
    from cachegen.store import open_store

    tenants = tenants or tokens
    if tenants is None and not allow_anonymous and not _is_loopback(host):
        raise ValueError(
            f"{host} is reachable from other machines: give --tenants, or --allow-anonymous"
        )
    if (tls_cert is None) != (tls_key is None):
        raise ValueError("expected both --tls-cert and --tls-key, or none of them")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    quota_bytes = _bytes(quota_mb)
    run(
        open_store(store),
        read_tenants(tenants, quota_bytes=quota_bytes, quota_objects=quota_objects)
        if tenants
        else anonymous(quota_bytes, quota_objects=quota_objects),
        address=Address(host, port, tls_cert, tls_key),
        limits=Limits(int(max_object_mb * 1e6), _bytes(capacity_mb), max_connections, drain_s),
        index_path=index,
        logs=access_log,
    )


def _bytes(size_mb: float | None) -> int | None:
    return None if size_mb is None else int(size_mb * 1e6)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
