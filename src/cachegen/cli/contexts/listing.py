"""`contexts`: what a store holds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cachegen.cli.contexts.command import AsJson, StoreUrl
from cachegen.cli.output import print_json, print_table, progress_bar

if TYPE_CHECKING:
    from cachegen.contexts.stored import Listing, StoredContext
    from cachegen.store import Store

# Folders of tenants in the folder of a server.
_TENANT = re.compile(r"t-[0-9a-f]{32}")
# Digits of ids and hashes in the table; --json has all 64.
_ID_DIGITS, _MODEL_DIGITS, _TENANT_DIGITS = 12, 8, 8
_AGES = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Order(StrEnum):
    """What contexts are sorted by."""

    AGE = "age"
    BYTES = "bytes"
    TOKENS = "tokens"


def contexts(
    store: StoreUrl,
    sort: Annotated[
        Order, typer.Option(help="Newest, largest or longest first; where no age is known: bytes.")
    ] = Order.AGE,
    limit: Annotated[int, typer.Option(help="Contexts to show.", min=1)] = 50,
    max_mb: Annotated[int, typer.Option(help="Manifests to read, in MB.", min=1)] = 512,
    as_json: AsJson = False,
) -> None:
    """List the contexts that a store holds: model, tokens, levels, bytes, age.

    A context that others begin with is no row of its own. Shared bytes are of objects that other
    contexts have too. Salts and namespaces are within the ids, and cannot be shown.
    """
    from cachegen.contexts.listing import list_contexts
    from cachegen.store import open_store
    from cachegen.store.url import is_memory

    if is_memory(store):
        raise ValueError("memory: is empty in a new process; expected a store that others can see")
    opened = _looked_at(open_store(store, create=False))
    with progress_bar(quiet=False) as display:
        display.begin("list manifests")

        def show(doing: str, done: int, total: int | None) -> None:
            display.update(doing, completed=done, total=total)

        listing = list_contexts(
            opened, roots=_roots(opened), max_bytes=max_mb * 1_000_000, progress=show
        )
    shown = sorted(listing.contexts, key=_ORDERS[sort])[:limit]
    if as_json:
        print_json(_fields(opened.url, listing, shown))
    else:
        _show(opened.url, listing, shown)


def _looked_at(store: Store) -> Store:
    """The same store, where what is read does not count as used if it can be told so."""
    from dataclasses import replace

    from cachegen.store.remote import RemoteStore

    return replace(store, peeks=True) if isinstance(store, RemoteStore) else store


def _roots(store: Store) -> list[str]:
    """The store itself; in the folder of a server those of its tenants too."""
    from cachegen.store.folder import FolderStore

    if not isinstance(store, FolderStore):
        return [""]
    names = (path.name for path in Path(store.root).iterdir())
    return ["", *sorted(name for name in names if _TENANT.fullmatch(name))]


_ORDERS: dict[Order, Callable[[StoredContext], tuple[float, ...]]] = {
    Order.AGE: lambda found: (-(found.modified_s or 0), -found.size_bytes),
    Order.BYTES: lambda found: (-found.size_bytes,),
    Order.TOKENS: lambda found: (-found.num_tokens,),
}


def _show(url: str, listing: Listing, shown: list[StoredContext]) -> None:
    has_tenants = any(found.root for found in listing.contexts)
    columns = ["context", "model", "tokens", "chunks", "levels", "bytes", "shared", "age"]
    rows = [_row(found, has_tenants=has_tenants) for found in shown]
    if has_tenants:
        columns.insert(0, "tenant")
    print(f"{url}: {_summary(listing)}")
    if rows:
        print_table("", columns, rows)
    if len(shown) < len(listing.contexts):
        print(f"{len(listing.contexts) - len(shown):,} more are not shown: --limit, --sort")
    if listing.left_out:
        print(f"There may be more: {listing.left_out}; --max-mb reads more.")
    if listing.num_unreadable:
        print(f"{_count(listing.num_unreadable, 'manifest')} cannot be read:")
        for key, reason in listing.unreadable[:10]:
            print(f"  {key}: {reason}")


def _summary(listing: Listing) -> str:
    models = len({found.fingerprint for found in listing.contexts})
    return (
        f"{_count(len(listing.contexts), 'context')} of {_count(models, 'model')}, "
        f"{listing.size_bytes:,} bytes"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _row(found: StoredContext, *, has_tenants: bool) -> list[str]:
    num_chunks = len(found.chunk_ids)
    levels = [
        name if level.num_chunks == num_chunks else f"{name} ({level.num_chunks} chunks)"
        for name, level in found.levels.items()
    ]
    row = [
        found.context_id.hex()[:_ID_DIGITS],
        found.fingerprint.hex()[:_MODEL_DIGITS],
        f"{found.num_tokens:,}",
        f"{num_chunks:,}",
        ", ".join(levels) + ("" if found.exact else "; inexact"),
        f"{found.size_bytes:,}",
        f"{found.size_bytes - found.own_bytes:,}",
        _age(found.modified_s),
    ]
    return [found.root[2:][:_TENANT_DIGITS], *row] if has_tenants else row


def _age(modified_s: float | None) -> str:
    if modified_s is None:
        return "unknown"
    age_s = max(time.time() - modified_s, 0)
    length_s, unit = next((one for one in _AGES if age_s >= one[0]), _AGES[-1])
    return f"{age_s / length_s:.0f} {unit}"


def _fields(url: str, listing: Listing, shown: list[StoredContext]) -> dict[str, Any]:
    return {
        "store": url,
        "num_contexts": len(listing.contexts),
        "bytes": listing.size_bytes,
        "left_out": listing.left_out,
        "num_unreadable": listing.num_unreadable,
        "unreadable": [{"key": key, "reason": reason} for key, reason in listing.unreadable],
        "contexts": [_context_fields(found) for found in shown],
    }


def _context_fields(found: StoredContext) -> dict[str, Any]:
    return {
        "context_id": found.context_id.hex(),
        "model_fingerprint": found.fingerprint.hex(),
        "tenant_folder": found.root,
        "tokens": found.num_tokens,
        "chunks": len(found.chunk_ids),
        "exact": found.exact,
        "levels": {
            name: {"bytes": level.size_bytes, "chunks": level.num_chunks}
            for name, level in found.levels.items()
        },
        "profiles": [profile_hash.hex() for profile_hash in found.profiles],
        "bytes": found.size_bytes,
        "shared_bytes": found.size_bytes - found.own_bytes,
        "modified": _timestamp(found.modified_s),
    }


def _timestamp(modified_s: float | None) -> str | None:
    if modified_s is None:
        return None
    try:
        return datetime.fromtimestamp(modified_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # files may have any time
        return None
