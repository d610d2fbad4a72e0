"""What the server answers, to our client and to any other."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import urllib3

from cachegen.errors import StoreError, StoreFull
from cachegen.store import open_store, read

MB = 10**6


def request(server, method: str, path: str, **options) -> urllib3.BaseHTTPResponse:
    return urllib3.request(method, f"{server.url}{path}", retries=False, **options)


def test_any_http_client_reads_and_writes(server) -> None:
    assert request(server, "PUT", "/any/client", body=b"0123456789").status == 201
    assert request(server, "PUT", "/any/client", body=b"other").status == 412
    whole = request(server, "GET", "/any/client")
    assert (whole.status, whole.data) == (200, b"0123456789")
    part = request(server, "GET", "/any/client", headers={"Range": "bytes=-4"})
    assert (part.status, part.data) == (206, b"6789")
    assert part.headers["Content-Range"] == "bytes 6-9/10"
    head = request(server, "HEAD", "/any/client")
    assert (head.status, head.headers["Content-Length"], head.data) == (200, "10", b"")
    assert request(server, "DELETE", "/any/client").status == 204
    assert request(server, "GET", "/any/client").status == 404
    assert request(server, "HEAD", "/any/client").status == 404


def test_objects_say_when_they_were_written(server) -> None:
    server.client().put("when", b"1")
    path = Path(server.store) / "when"
    os.utime(path, (1e9, 1e9))
    answer = request(server, "GET", "/when")
    assert answer.headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert server.client().get("when").modified_s == 1e9


def test_our_read_only_store_reads_it_too(server) -> None:
    data = random.Random(1).randbytes(3 * MB)
    server.client().put("plain/http", data)
    plain = open_store(f"{server.url}/")
    assert read(plain, "plain/http") == data
    assert b"".join(plain.get("plain/http", (5, 2_000_000))) == data[5:2_000_000]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/none", b"", 404, "no such object"),
        ("GET", "/a//b", b"", 400, "segments"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", b"", 400, "segments"),
        ("PUT", "/healthz", b"x", 400, "other than healthz"),
        ("PUT", "/~/x", b"x", 400, "segments"),
        ("POST", "/~/lookup", b"[", 400, '{"keys": '),
        ("POST", "/~/lookup", b"[" * 100_000, 400, '{"keys": '),
        ("POST", "/~/lookup", b'{"keys": "' + b"\xff" + b'"}', 400, '{"keys": '),
        ("POST", "/~/lookup", b'{"keys": [1]}', 400, '{"keys": '),
        ("POST", "/~/lookup", b'{"keys": ["../x"]}', 400, "segments"),
        ("POST", "/~/lookup", json.dumps({"keys": ["k"] * 5000}).encode(), 400, "4096"),
        ("GET", "/~/list?prefix=..", b"", 400, "segments"),
    ],
)
def test_refusals_say_why(server, method, path, body, status, reason) -> None:
    answer = request(server, method, path, body=body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert reason in answer.json()["error"]


def test_a_range_behind_the_end(server) -> None:
    server.client().put("ten", bytes(10))
    answer = request(server, "GET", "/ten", headers={"Range": "bytes=10-12"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")


def test_health(server) -> None:
    assert request(server, "GET", "/healthz").data == b"ok\n"


def test_metrics(server) -> None:
    """A request is counted when its last byte has been handed to the system."""
    client = server.client()
    before = counters(server)
    client.put("counted", bytes(1000))
    read(client, "counted")
    steps = {
        'cachegen_requests_total{method="PUT",status="201"}': 1,
        "cachegen_received_bytes_total": 1000,
        "cachegen_stored_bytes": 1000,
    }
    give_up_s = time.monotonic() + 5
    while {name: counters(server)[name] - before.get(name, 0) for name in steps} != steps:
        assert time.monotonic() < give_up_s
    assert (
        counters(server)["cachegen_sent_bytes_total"] - before["cachegen_sent_bytes_total"] > 1000
    )
    assert counters(server)["cachegen_in_flight"] == 1


def counters(server) -> dict[str, float]:
    text = request(server, "GET", "/metrics").data.decode()
    return {name: float(value) for name, value in re.findall(r"^(cachegen\S+) (\S+)$", text, re.M)}


def test_an_object_that_is_replaced_while_it_is_sent(server) -> None:
    client, size_bytes = server.client(), 20_000_000
    client.put("replaced", b"1" * size_bytes)
    pieces = client.get("replaced")
    taken = bytes(next(pieces))
    client.delete("replaced")
    client.put("replaced", b"2" * size_bytes)
    with pytest.raises(StoreError, match="get replaced"):
        for piece in pieces:
            taken += piece
    assert set(taken) == set(b"1")
    assert read(client, "replaced") == b"2" * size_bytes


def upload_head(server, path: str, size_bytes: int) -> bytes:
    """What the server answers to a request for an upload before any byte of it."""
    host, _, port = server.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size_bytes}\r\n\r\n"
        connection.sendall(head.encode())
        return connection.recv(1000).partition(b"\r\n")[0]


def test_an_upload_in_vain_is_refused_before_its_bytes_come(serve, tmp_path) -> None:
    options = ("--quota-mb", 5, "--max-object-mb", 20)
    with serve("--store", tmp_path, *options) as server:
        server.client().put("there", bytes(3 * MB))
        assert upload_head(server, "/there", 2 * MB) == b"HTTP/1.1 412 Precondition Failed"
        assert upload_head(server, "/new", 3 * MB) == b"HTTP/1.1 507 Insufficient Storage"
        assert upload_head(server, "/new", 21 * MB).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(StoreFull, match="quota"):
            server.client().put("new", bytes(19 * MB))
        assert server.client().put("there", bytes(19 * MB)) is False
        assert server.client().put("new", bytes(2 * MB - 10_000)), "beside a block for each name"


def test_unfinished_uploads_have_limited_room(serve, tmp_path) -> None:
    with serve("--store", tmp_path, "--max-object-mb", 2) as server, ExitStack() as stack:
        host, _, port = server.host.partition(":")
        for number in range(4):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            head = f"PUT /{number} HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * MB}\r\n"
            connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        with pytest.raises(StoreError, match="too many uploads at once"):
            server.client().put("k", b"1")
        stack.close()
        give_up_s = time.monotonic() + 5
        while request(server, "PUT", "/k", body=b"1").status != 201:
            assert time.monotonic() < give_up_s


def test_many_at_once(server) -> None:
    client, source = server.client(), random.Random(3)
    objects = {f"many/{n}": source.randbytes(source.randrange(300_000)) for n in range(40)}

    def work(key: str) -> bool:
        created = client.put(key, objects[key])
        assert client.lookup([key, "many/none"]) == [len(objects[key]), None]
        assert read(client, key) == objects[key]
        return created

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(work, list(objects) * 2))
    assert sum(created) == len(objects)
    assert sorted(client.list("many")) == sorted(objects)


def test_more_keys_than_one_lookup_takes(server) -> None:
    client = server.client()
    client.put("far", b"12")
    assert client.lookup([*(f"x/{n}" for n in range(5000)), "far"]) == [None] * 5000 + [2]


def test_curl_reads_it(server) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    server.client().put("for/curl", b"content")
    command = [curl, "-sS", "-r", "1-3", f"{server.url}/for/curl"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"ont"


def test_an_upload_that_breaks_off_leaves_nothing(server) -> None:
    host, _, port = server.host.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"PUT /broken HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    assert server.client().lookup(["broken"]) == [None]
    assert server.client().put("broken", b"whole")
