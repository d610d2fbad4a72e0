"""obstore's view of a bucket: where it is, who asks, and what it lists."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import AzureStore, GCSStore, S3Store, from_url

from cachegen.errors import StoreError
from cachegen.forks import num_forks
from cachegen.store.failures import translated

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Backend = S3Store | GCSStore | AzureStore
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
# Of obstore's own client, which carries no object: they would hold for a part of the requests only.
_OF_THE_CLIENT = (
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
    "allow_invalid_certificates",
)
_TRUE = ("1", "true", "on", "yes", "y")
_threads_began: int | None = None


def opened(
    name: str,
    *,
    timeout_s: float,
    config: Mapping[str, Any] | None = None,
    client: ClientConfig | None = None,
) -> Backend:
    """The bucket of a URL; account and credentials come from the vendor's environment variables.

    Args:
        name: the URL, free of credentials.
        timeout_s: the longest wait for an answer, or for the next bytes of one.
        config: what takes precedence over the environment.
        client: the same, for the client of HTTP.

    Raises:
        StoreError: the account is not configured.
    """
    options: ClientConfig = {**_client_options(timeout_s), **(client or {})}
    retry = _retry_options(timeout_s)
    settings: Any = dict(config or {})
    with translated(name, "open the store"):
        found = from_url(name, config=settings, client_options=options, retry_config=retry)
    assert isinstance(found, S3Store | GCSStore | AzureStore)
    return found


def settings(name: str) -> dict[str, str]:
    """What the environment says about the vendor of a bucket, by names in small letters.

    Raises:
        StoreError: it is something that would hold for a part of the requests only.
    """
    prefix = PREFIXES[name.partition(":")[0]]
    found = {key.lower(): value for key, value in os.environ.items() if key.startswith(prefix)}
    for option in _OF_THE_CLIENT:
        if (key := f"{prefix.lower()}{option}") in found:
            raise StoreError(
                f"{name}: expected no {key.upper()} in the environment, found one: proxies are "
                "named by HTTPS_PROXY, authorities by SSL_CERT_FILE"
            )
    return found


def is_true(value: str) -> bool:
    """Whether obstore takes a setting for true."""
    return value.lower() in _TRUE


def check_threads(url: str, doing: str) -> None:
    """Refuse to use obstore in a child forked after its threads had started.

    They start with the first use by a process of any bucket; the child would wait for them for
    ever where credentials are asked for.

    Raises:
        StoreError: says what to do instead.
    """
    global _threads_began
    if _threads_began is None:
        _threads_began = num_forks()
    if _threads_began != num_forks():
        raise StoreError(
            f"{url}: cannot {doing}: this process was forked from one that had used such a store, "
            "whose threads it does not have; start processes by 'spawn' "
            "(multiprocessing.get_context('spawn')), or use such stores after the fork only"
        )


def _client_options(timeout_s: float) -> ClientConfig:
    """Options of obstore's client; a listing as a whole has another limit."""
    wait = timedelta(seconds=timeout_s)
    return {
        "allow_http": True,
        "timeout": timedelta(days=1),
        "connect_timeout": min(wait, timedelta(seconds=5)),
        "read_timeout": wait,
    }


def _retry_options(timeout_s: float) -> RetryConfig:
    """Try once more, for a pooled connection that the server has closed."""
    pause = timedelta(milliseconds=50)
    return {
        "max_retries": 1,
        "retry_timeout": timedelta(seconds=timeout_s),
        "backoff": {"init_backoff": pause, "max_backoff": pause, "base": 2},
    }
