"""A server that speaks as much of GCS and Azure Blob Storage as a store needs; and accounts.

What the vendors themselves say of signatures it cannot tell: it looks for credentials of the right
kind only.
"""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

ACCOUNT_KEY = "dGVzdGluZw=="
TOKEN = "TOKEN-OF-A-SERVICE"
SCHEMES = ("s3", "gs", "az")
PLACES = {"s3": "AWS_ENDPOINT", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
ACCOUNTS = {
    "s3": {
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    },
    "gs": {"GOOGLE_BEARER_TOKEN": TOKEN},
    "az": {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY},
}


def use(environment: pytest.MonkeyPatch, scheme: str, place: str) -> None:
    """Have buckets of a scheme mean a server."""
    environment.setenv(PLACES[scheme], place)
    for name, value in ACCOUNTS[scheme].items():
        environment.setenv(name, value)


class BucketServer(http.server.ThreadingHTTPServer):
    """Objects by bucket and key, in memory; remembers what was asked."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BucketServer

    def handle_one_request(self) -> None:
        self.is_google = False
        super().handle_one_request()

    def parse_request(self) -> bool:
        is_well_formed = super().parse_request()
        if is_well_formed:
            headers = {name.lower(): text for name, text in self.headers.items()}
            self.server.asked.append((self.command, self.path, headers))
            self.is_google = "x-ms-version" not in headers
        return is_well_formed

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_allowed(self) -> bool:
        said = self.headers.get("Authorization", "")
        if said == f"Bearer {TOKEN}" if self.is_google else said.startswith("SharedKey account:"):
            return True
        self._answer(403, b"<Error><Code>Denied</Code><Message>who are you?</Message></Error>")
        return False

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query or query.get("comp") == ["list"]:
            self._list(query.get("prefix", [""])[0])
            return
        data = self.server.objects.get(self._name())
        stored = {"Last_Modified": formatdate(usegmt=True), "ETag": '"1"'}
        asked = self.headers.get("Range")
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif asked is None:
            self._answer(200, data, **stored)
        else:
            first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
            body = data[first : last + 1]
            where = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
            self._answer(206 if body else 416, body, Content_Range=where, **stored)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_allowed():
            return
        only_new = (
            self.headers["x-goog-if-generation-match"] == "0"
            if self.is_google
            else (self.headers["If-None-Match"], self.headers["x-ms-blob-type"])
            == ("*", "BlockBlob")
        )
        assert only_new
        with self.server.lock:
            is_new = self.server.objects.setdefault(self._name(), data) is data
        self._answer(201 if is_new else (412 if self.is_google else 409))

    def do_DELETE(self) -> None:
        if self._is_allowed():
            found = self.server.objects.pop(self._name(), None)
            self._answer(404 if found is None else 204)

    def do_POST(self) -> None:
        """Azure's requests that hold requests."""
        held = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self._is_allowed():
            return
        name = re.search(r"DELETE (\S+) HTTP", held)
        assert name is not None
        found = self.server.objects.pop(unquote(name[1]), None)
        status = b"404 Not Found" if found is None else b"202 Accepted"
        self._answer(202, b"--batch\r\n\r\nHTTP/1.1 %b\r\n\r\n--batch--\r\n" % status)

    def _list(self, prefix: str) -> None:
        root = f"{urlsplit(self.path).path}/"
        keys = [name.removeprefix(root) for name in self.server.objects if name.startswith(root)]
        found = [key for key in sorted(keys) if key.startswith(prefix)]
        self._answer(200, (listed_by_google if self.is_google else listed_by_azure)(found).encode())

    def log_message(self, *args: object) -> None:
        pass


def listed_by_google(keys: list[str]) -> str:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-21T12:00:00.000Z</LastModified>"
        f'<ETag>"1"</ETag><Size>1</Size></Contents>'
        for key in keys
    )
    return f"<ListBucketResult><Name>bucket</Name>{entries}</ListBucketResult>"


def listed_by_azure(keys: list[str]) -> str:
    entries = "".join(
        f"<Blob><Name>{key}</Name><Properties><Last-Modified>Sat, 21 Nov 2026 12:00:00 GMT"
        "</Last-Modified><Content-Length>1</Content-Length><Etag>1</Etag>"
        "<Content-Type>a/b</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for key in keys
    )
    return f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker /></EnumerationResults>"


@contextmanager
def bucket_serving() -> Iterator[BucketServer]:
    """The server, while the context lasts."""
    with BucketServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
