"""Proxies that the environment names, for buckets: as the tools of their vendors use them."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from cachegen.errors import StoreError


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that leads to a host, as a URL; None where the way is direct.

    Raises:
        StoreError: it is none for HTTP.
    """
    named = getproxies_environment()
    proxy = named.get(scheme) or named.get("all")
    if not proxy or proxy_bypass(host):
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise StoreError(f"expected a proxy http(s)://host:port for {scheme}://{host}, got another")
    return url
