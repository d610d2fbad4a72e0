"""URLs of stores: the store that each means, and its name without credentials."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from cachegen.errors import StoreError
from cachegen.store.folder import FolderStore
from cachegen.store.memory import MemoryStore
from cachegen.store.place import absolute, check_folder
from cachegen.store.protocol import Store, public_name

MEMORY = "memory:"
SCHEMES = (
    *(MEMORY, "file://", "s3://", "gs://", "az://", "http://", "https://"),
    *("cachegen://", "cachegens://", "redis://", "rediss://"),
)
_SERVERS = ("cachegen", "cachegens")
_REDIS = ("redis", "rediss")
_FILES = ("http", "https")
_WITH_CREDENTIALS = (*_FILES, *_SERVERS, *_REDIS)


def open_store(
    url: str | os.PathLike[str], *, create: bool = True, timeout_s: float = 30.0
) -> Store:
    """Open the store that a URL names.

    ``memory:`` is a new, empty store of this process; ``file:///folder`` or a plain path, from
    ``~`` too, is a folder, made where it is missing if ``create``; ``s3://bucket/prefix``,
    ``gs://bucket/prefix`` and ``az://container/prefix`` take account and credentials from the
    environment variables of their vendors; ``http(s)://`` is read-only, with ``user:password@``
    for basic authentication; ``cachegen://:TOKEN@host:port`` is a server that `cachegen serve`
    started (``cachegens://`` by TLS), its token else from the environment variable
    ``CACHEGEN_TOKEN``; ``redis://:password@host:port/database`` (``rediss://`` by TLS) is a Redis
    database. What separates parts of a URL is written as ``%40`` (``@``) and ``%2F`` (``/``) in a
    user, password or token. Proxies that the environment names are used for buckets only.
    ``timeout_s`` is the longest wait for an answer or for the next bytes of one; its default is
    arbitrary: 10 to 120 s do, as loads have limits of their own.

    Raises:
        ValueError: an unknown scheme or a malformed URL; the message shows nothing that stands
            between ``//`` and ``@``, and no query.
        StoreError: the folder is missing, or cannot be made; the account is not configured, or
            redis-py is not installed.
    """
    if is_memory(url):
        return MemoryStore()
    folder = folder_of(url)
    if folder is not None:
        check_folder(folder, create=create)
        return FolderStore(folder)
    parts = urlsplit(os.fspath(url))
    if parts.scheme in _SERVERS:
        return _open_server(parts, timeout_s=timeout_s)
    if parts.scheme in _REDIS:
        return _open_redis(parts, timeout_s=timeout_s)
    if parts.scheme in _FILES:
        return _open_files(parts, timeout_s=timeout_s)
    return _open_bucket(parts, timeout_s=timeout_s)


def is_memory(url: str | os.PathLike[str]) -> bool:
    """Whether a URL means the memory of this process."""
    return os.fspath(url) in (MEMORY, f"{MEMORY}//")


def folder_of(url: str | os.PathLike[str]) -> Path | None:
    """The absolute path of the folder that a URL means; None where it means another store.

    Raises:
        ValueError: it means none, or memory.
    """
    text = os.fspath(url)
    if not text:
        raise ValueError(f"expected a path or one of {', '.join(SCHEMES)}; got an empty string")
    if "://" not in text:
        _check_no_scheme(text)
        return absolute(text)
    parts = _split(text)
    _check(parts, public_name(text))
    return absolute(unquote(parts.path)) if parts.scheme == "file" else None


def _split(text: str) -> SplitResult:
    """The parts of a URL; the errors of `urllib` show all of it.

    Raises:
        ValueError: host or port are malformed.
    """
    try:
        parts = urlsplit(text)
        is_well_formed = parts.port is None or parts.port > 0
    except ValueError:
        is_well_formed = False
    if not is_well_formed:
        raise ValueError(
            f"expected a host, and a port from 1 to 65535, after the slashes; got "
            f"{public_name(text)!r} (in credentials write %2F for /, %40 for @)"
        )
    return parts


def _check_no_scheme(text: str) -> None:
    """Refuse a scheme without its slashes, which is a mistake and no folder of that name."""
    scheme, colon, _ = text.partition(":")
    if colon and any(known.startswith(f"{scheme}:") for known in SCHEMES):
        raise ValueError(
            f"expected a path or one of {', '.join(SCHEMES)}, got one that begins with "
            f"'{scheme}:'; write './{scheme}:...' for a folder of that name"
        )


def _check(parts: SplitResult, name: str) -> None:
    if f"{parts.scheme}://" not in SCHEMES:
        raise ValueError(f"expected a path or one of {', '.join(SCHEMES)}; got {name!r}")
    if parts.query or parts.fragment:
        raise ValueError(f"expected a store URL without query and fragment; got {name!r} with one")
    if parts.scheme == "file" and (parts.netloc or not parts.path):
        raise ValueError(f"expected file:///absolute/path, got {name!r}")
    if parts.scheme != "file" and "@" in parts.path:
        raise ValueError(
            f"expected a URL without @ in its path, got {name!r} with one: write %40, and in "
            "credentials %2F for /"
        )
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError(f"expected a bucket or host after {parts.scheme}://, got {name!r}")
    if parts.username is not None and parts.scheme not in _WITH_CREDENTIALS:
        raise ValueError(f"expected the credentials of {name!r} in the environment, not the URL")
    if parts.scheme in _SERVERS and (parts.path not in ("", "/") or parts.port is None):
        raise ValueError(f"expected {parts.scheme}://host:port without a path, got {name!r}")


def _open_server(parts: SplitResult, *, timeout_s: float) -> Store:
    from cachegen.store.remote import connect

    return connect(
        str(parts.hostname),
        int(parts.port or 0),
        url=public_name(parts.geturl()),
        token=unquote(parts.password or parts.username or "") or os.environ.get("CACHEGEN_TOKEN"),
        tls=parts.scheme == "cachegens",
        timeout_s=timeout_s,
    )


def _open_redis(parts: SplitResult, *, timeout_s: float) -> Store:
    name = public_name(parts.geturl())
    try:
        from cachegen.store.redis import connect
    except ModuleNotFoundError as error:
        raise StoreError(f"{name}: expected redis-py: pip install 'cachegen[redis]'") from error
    return connect(parts, name=name, timeout_s=timeout_s)


def _open_files(parts: SplitResult, *, timeout_s: float) -> Store:
    from cachegen.store.files import connect

    return connect(parts, url=public_name(parts.geturl()), timeout_s=timeout_s)


def _open_bucket(parts: SplitResult, *, timeout_s: float) -> Store:
    from cachegen.store.buckets.bucket import connect

    return connect(public_name(parts.geturl()), timeout_s=timeout_s)
