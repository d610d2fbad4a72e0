"""Requests to GCS and Azure as obstore writes them, taken down on loopback and sent by us.

obstore knows how each of their many kinds of credentials authorises a request, and cannot sign all
of it in a URL. So it is given a listener of ours for the service, and what it says there is the
request. Neither vendor's signatures cover the host.
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from cachegen.errors import StoreError
from cachegen.forks import PerProcess
from cachegen.store.buckets.backend import is_true, opened, settings
from cachegen.store.buckets.request import BucketRequest
from cachegen.store.failures import translated
from cachegen.store.protocol import interruptible

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_HOST = "127.0.0.1"
_PROOF = "cachegen-draft"
# Of obstore's client and of the connection to the listener, not of the request.
_NOT_SENT = (_PROOF, "host", "accept", "user-agent", "connection")
_NOT_THERE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# How often a wait for obstore looks whether it was given up. Arbitrary: 0.01 to 0.3 s do.
_TICK_S = 0.05
# To obstore, which is this process and says all it has to at once. Arbitrary: 1 to 60 s do.
_SPOKEN_S = 10.0
# Of a head: a token has some kB. Arbitrary: 64 KiB to 1 MiB does.
_HEAD_BYTES = 256 << 10
# Any key will do.
_ANY = "any"
# Azurite's, which is no secret: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_OF_AN_ACCOUNT = tuple(
    f"azure_storage_{name}"
    for name in ("account_key", "access_key", "master_key", "sas_key", "sas_token", "token")
)
# Settings of obstore for the place of the service, and the variables that name one.
_SERVICE = {"gs": "base_url", "az": "endpoint"}
_PLACES = ("google_base_url", "azure_storage_endpoint", "azure_endpoint")


@dataclass(frozen=True, slots=True)
class _Head:
    """A request as obstore says it; with a body where that is not the caller's."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class DraftedRequests:
    """Writes requests to a bucket of GCS or Azure.

    One is written at a time, in some 0.3 ms. Credentials are asked for by obstore where it needs
    any, as for all its requests.
    """

    def __init__(self, name: str, *, timeout_s: float) -> None:
        """Read the settings; nothing is asked.

        Raises:
            StoreError: they are not complete, or a proxy is set for loopback.
        """
        self._name, self._timeout_s = name, timeout_s
        self._settings = settings(name)
        _check_proxies(name)
        opened(name, timeout_s=timeout_s)
        self._desk = PerProcess(self._open_desk)
        self._turn = PerProcess(threading.Lock)

    def write(
        self, method: str, key: str, *, range: tuple[int, int] | None, body: memoryview | None
    ) -> BucketRequest:
        """See `Writer.write`."""
        doing = f"ask for credentials to {method} {key}"
        with _Turn(self._turn(), f"{self._name}: cannot {doing}"):
            desk = self._desk()
            try:
                head = desk.draft(_VERBS[method](key, range, body))
            except StoreError:
                self._desk = PerProcess(self._open_desk)  # what is still said there is not heard
                raise
        headers = {name: text for name, text in head.headers.items() if name not in _NOT_SENT}
        sent = memoryview(head.body) if body is None and head.body else body
        return BucketRequest(head.method, f"{desk.origin}{head.target}", headers, sent)

    def _open_desk(self) -> _Desk:
        return _Desk(self._name, self._settings, timeout_s=self._timeout_s)


Call = Callable[[Any], object]
_VERBS: dict[str, Callable[[str, tuple[int, int] | None, memoryview | None], Call]] = {
    "GET": lambda key, range, _: (
        lambda backend: backend.get(key, options=None if range is None else {"range": range})
    ),
    "HEAD": lambda key, _, __: lambda backend: backend.head(key),
    "DELETE": lambda key, _, __: lambda backend: backend.delete(key),
    "PUT": lambda key, _, body: (
        lambda backend: backend.put(key, bytes(body or b""), mode="create", use_multipart=False)
    ),
}


class _Desk:
    """A listener on loopback that obstore takes for the service.

    Attributes:
        origin: of the service itself: scheme, host and port.
    """

    def __init__(self, name: str, found: Mapping[str, str], *, timeout_s: float) -> None:
        self._name = name
        self._listening = socket.create_server((_HOST, 0))
        self._listening.settimeout(_TICK_S)
        host, port = self._listening.getsockname()
        origin, path = self._place(found, f"{host}:{port}", timeout_s=timeout_s)
        self.origin = origin
        config = {**_emulated(found), _SERVICE[name[:2]]: f"http://{host}:{port}{path}"}
        self._proof = secrets.token_hex(16)
        proof: ClientConfig = {"default_headers": {_PROOF: self._proof}}
        self._backend = opened(name, timeout_s=timeout_s, config=config, client=proof)

    def __del__(self) -> None:
        self._listening.close()

    def draft(self, call: Call) -> _Head:
        """What obstore says when it is called.

        Raises:
            StoreError: it says nothing, for want of credentials; or nobody waits any more.
        """
        return self._said(lambda: call(self._backend), proof=(_PROOF, self._proof))

    def _said(self, call: Callable[[], object], *, proof: tuple[str, str]) -> _Head:
        asking, given_up = _Asking(call), threading.Event()
        with translated(self._name, "ask for credentials"), interruptible(given_up.set):
            while not given_up.is_set():
                has_ended = asking.has_ended.is_set()
                is_heard, _, _ = select.select([self._listening], [], [], _TICK_S)
                if is_heard and (head := self._take(proof)) is not None:
                    return head
                if has_ended and not is_heard:
                    raise asking.error or StoreError("obstore sent no request")
        raise StoreError(f"{self._name}: cannot ask for credentials: it was given up")

    def _take(self, proof: tuple[str, str]) -> _Head | None:
        """The next request; None where it is not the one that was called for."""
        try:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(_SPOKEN_S)
                head = _read(connection)
                connection.sendall(_NOT_THERE)
        except (OSError, ValueError):
            return None
        name, text = proof
        return head if compare_digest(head.headers.get(name, "").encode(), text.encode()) else None

    def _place(
        self, found: Mapping[str, str], address: str, *, timeout_s: float
    ) -> tuple[str, str]:
        """Where the service is, and its path: what obstore asks a proxy for."""
        word = secrets.token_hex(16)
        backend: Any = opened(
            self._name,
            timeout_s=timeout_s,
            config={"skip_signature": True},
            client={"proxy_url": f"http://{_PROOF}:{word}@{address}"},
        )
        proof = f"Basic {b64encode(f'{_PROOF}:{word}'.encode()).decode()}"
        head = self._said(lambda: backend.head(_ANY), proof=("proxy-authorization", proof))
        if head.method == "CONNECT":
            named = next((found[key] for key in _PLACES if key in found), "")
            return f"https://{head.target}", urlsplit(named).path.rstrip("/")
        there, bucket = urlsplit(head.target), urlsplit(self._name).netloc
        return f"{there.scheme}://{there.netloc}", there.path.partition(f"/{bucket}/")[0]


class _Asking:
    """A call of obstore in a thread, which ends with the answer from us or when it fails."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.has_ended = threading.Event()
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except FileNotFoundError as error:  # of credentials: an object is asked for at the listener
            self.error = StoreError(str(error).partition("\n")[0])
        except Exception as error:
            self.error = error
        self.has_ended.set()


class _Turn:
    """A lock that is waited for until somebody gives up."""

    def __init__(self, lock: threading.Lock, doing: str) -> None:
        self._lock, self._doing = lock, doing

    def __enter__(self) -> None:
        if self._lock.acquire(blocking=False):
            return
        given_up = threading.Event()
        with interruptible(given_up.set):
            while not self._lock.acquire(timeout=_TICK_S):
                if given_up.is_set():
                    raise StoreError(f"{self._doing}: it was given up")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _read(connection: socket.socket) -> _Head:
    """A request; the body of a PUT is dropped, as the caller has it."""
    said = b""
    while b"\r\n\r\n" not in said:
        if len(said) > _HEAD_BYTES or not (more := connection.recv(_HEAD_BYTES)):
            raise ValueError("expected the head of a request")
        said += more
    first, *lines = said.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): text.strip() for name, _, text in (x.partition(":") for x in lines)}
    body = bytearray(said.partition(b"\r\n\r\n")[2])
    left = int(headers.get("content-length", "0")) - len(body)
    due_s = time.monotonic() + _SPOKEN_S
    while left > 0 and time.monotonic() < due_s:
        piece = connection.recv(min(left, 1 << 20))
        if not piece:
            raise ValueError("expected the body of a request")
        left -= len(piece)
        if method != "PUT":
            body += piece
    return _Head(method, target, headers, b"" if method == "PUT" else bytes(body))


def _emulated(found: Mapping[str, str]) -> dict[str, Any]:
    """What the switch to Azure's emulator means, told without it: it would keep its own address."""
    if not is_true(found.get("azure_storage_use_emulator", "")):
        return {}
    config: dict[str, Any] = {"use_emulator": False}
    if "azure_storage_account_name" not in found:
        config["account_name"] = _EMULATOR_ACCOUNT
    if not any(key in found for key in _OF_AN_ACCOUNT):
        config["account_key"] = _EMULATOR_KEY
    return config


def _check_proxies(name: str) -> None:
    """Refuse a proxy that obstore would use for the listener: it would see what proves who asks."""
    named = getproxies_environment()
    is_used = bool(named.get("http") or named.get("all"))
    if is_used and not proxy_bypass(_HOST):
        raise StoreError(
            f"{name}: expected {_HOST} in NO_PROXY, as HTTP_PROXY or ALL_PROXY is set and what "
            "authorises requests goes over loopback"
        )
