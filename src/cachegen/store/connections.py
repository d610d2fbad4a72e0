"""Connections by HTTP, direct or by a proxy, whose answers have a most of bytes and seconds."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from base64 import b64encode
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from cachegen.store.protocol import interruptible

# Status and headers of an answer. Servers send some hundred bytes; our own takes as much of a
# request. Arbitrary: 16 KiB to 1 MiB does.
_HEAD_BYTES = 64 << 10
# Arbitrary: 2 to 30 s do; TCP repeats a lost SYN after 1 and after 3 s.
_CONNECT_S = 5.0
# Arbitrary: 8 to 128 do. Connections kept for reuse; more are opened when needed, then closed.
_MAX_CONNECTIONS = 32
# At most two pieces wait in the system's send buffer: the time they wait there counts as waiting
# for the answer, and megabytes take long on a slow link.
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 << 10)


class Bounded(io.RawIOBase):
    """The bytes of a socket, as far as they are allowed."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, *, timeout_s: float) -> None:
        """Allow the head of an answer."""
        self._sock, self._raw, self._timeout_s = sock, raw, timeout_s
        self.allow(_HEAD_BYTES)

    def allow(self, num_bytes: int) -> None:
        """Let this many bytes come, within the time of one wait."""
        self._left_bytes, self._due_s = num_bytes, time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """The next bytes.

        Raises:
            TimeoutError: what was allowed did not come in time.
            OSError: it is more.
        """
        if time.monotonic() > self._due_s:
            raise TimeoutError(f"it was not complete after {self._timeout_s:g} s")
        if self._left_bytes <= 0:
            raise OSError("it has more bytes around its content than any server needs")
        with interruptible(self._shut):
            count = self._raw.readinto(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count or 0
        return count

    def close(self) -> None:
        """Close the socket's side of it too."""
        self._raw.close()
        super().close()

    def _shut(self) -> None:
        """Shut the connection below TLS, which would have to be asked in turn with its reader."""
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class Bounds:
    """Gives a connection's answers bounds."""

    bounded: Bounded | None = None

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
        """What `http.client` reads an answer with."""
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        timeout_s = sock.gettimeout()
        assert timeout_s is not None
        self.bounded = Bounded(sock, response.fp.detach(), timeout_s=timeout_s)
        response.fp = io.BufferedReader(self.bounded)
        return response


class _Connection(Bounds, HTTPConnection):  # type: ignore[misc]  # a method in place of a class
    pass


class _SecureConnection(Bounds, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def connections(
    host: str,
    port: int | None,
    *,
    authorization: str | None,
    tls: bool,
    timeout_s: float,
    proxy: str | None,
) -> urllib3.HTTPConnectionPool:
    """The connections to a server; none is made yet.

    Args:
        host: of the server.
        port: None for the usual one.
        authorization: what every request says of who asks.
        tls: by TLS 1.2 or later, against the system's authorities or ``SSL_CERT_FILE``.
        timeout_s: of every wait.
        proxy: the URL of one that leads there.
    """
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), read=timeout_s),
        "maxsize": _MAX_CONNECTIONS,
        "headers": {} if authorization is None else {"Authorization": authorization},
        "socket_options": [*HTTPConnection.default_socket_options, _UNSENT],
    }
    if tls:
        options["ssl_context"] = ssl.create_default_context()
        options["ssl_context"].minimum_version = ssl.TLSVersion.TLSv1_2
    if proxy is not None:
        return _through(proxy, host, port, tls=tls, options=options)
    return _SecurePool(host, port, **options) if tls else _Pool(host, port, **options)


def _through(
    proxy: str, host: str, port: int | None, *, tls: bool, options: dict[str, Any]
) -> urllib3.HTTPConnectionPool:
    """The connections through a proxy: tunnels, or for HTTP in clear what it forwards."""
    words = ":".join(credentials(proxy)[:2])
    shown = urllib3.make_headers(proxy_basic_auth=words) if words else None
    manager = urllib3.ProxyManager(proxy, proxy_headers=shown, **options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager.connection_from_host(host, port, "https" if tls else "http")


def authority(host: str, port: int | None) -> str:
    """Host and port as a URL has them."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def credentials(proxy: str) -> tuple[str, ...]:
    """User and password of a proxy, and both as they are sent."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return ()
    words = unquote(parts.username), unquote(parts.password or "")
    return (*words, b64encode(":".join(words).encode()).decode())
