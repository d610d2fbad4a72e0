"""What a tenant can make a server's disk and process hold, measured on both."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from cachegen.errors import KeyNotFound, StoreDenied, StoreFull
from cachegen.store.wire import Usage

QUOTA_MB = 10


def inodes(folder: Path) -> int:
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def test_many_empty_objects_under_deep_keys(serve, tmp_path: Path) -> None:
    """A tenant at its quota: no more files and folders than the quota has blocks; all go again."""
    entry = {"name": "a", "token": "t", "salt": "s", "quota_mb": QUOTA_MB}
    (tmp_path / "tokens.json").write_text(json.dumps({"tenants": [entry]}))
    (tmp_path / "tokens.json").chmod(0o600)
    options = ("--store", tmp_path / "store", "--tenants", tmp_path / "tokens.json")
    with serve(*options) as server:
        client = server.client("t")
        names = random.Random(1)
        keys = [
            "/".join(f"{names.randrange(10**9)}" for _ in range(1 + number % 15))
            for number in range(700)
        ]

        def put(key: str) -> bool:
            try:
                return client.put(key, b"")
            except StoreFull:
                return False

        with ThreadPoolExecutor(4) as pool:
            created = list(pool.map(put, keys))
        assert 200 < sum(created) < 700
        assert inodes(tmp_path / "store") <= QUOTA_MB * 10**6 // 4096 + 2
        assert client.put(keys[0], b"") is False
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(client.delete, keys))
        assert [path.name for path in (tmp_path / "store").iterdir()] == ["#server"]
        assert client.put(keys[0], b"")


def test_a_quota_of_objects(serve, tmp_path: Path) -> None:
    with serve("--store", tmp_path, "--quota-objects", 3) as server:
        client = server.client()
        for number in range(3):
            client.put(f"{number}", bytes(1000))
        for size_bytes in (0, 2_000_000):
            with pytest.raises(StoreFull):
                client.put("more", bytes(size_bytes))
        client.delete("0")
        assert client.put("more/below", b"")
        client.delete("1")
        for key in ("more", "more/below/it"):  # a client's mistake, no failure of the store
            answer = urllib3.request("PUT", f"{server.url}/{key}", body=b"", retries=False)
            assert (answer.status, "goes on" in answer.json()["error"]) == (409, True)


def test_a_tenant_is_told_what_it_uses(serve, two_tenants: Path, tmp_path: Path) -> None:
    with serve("--store", tmp_path, "--tenants", two_tenants) as server:
        client = server.client("token-b")
        assert client.usage() == Usage(0, 0, 0, quota_bytes=5_000_000)
        client.put("a", bytes(100))
        client.put("b/c", bytes(200))
        server.client("token-a").put("a", bytes(1000))
        assert client.usage() == Usage(2, 300, 300 + 5 * 4096, quota_bytes=5_000_000)
        client.delete("b/c")
        assert client.usage().objects == 1
        assert server.client("token-a").usage() == Usage(1, 1000, 1000 + 2 * 4096)
        with pytest.raises(StoreDenied):
            server.client("wrong").usage()


def test_without_limits_nobody_counts(serve, tmp_path: Path) -> None:
    """The index then knows of what was asked for only."""
    with serve("--store", tmp_path) as server, pytest.raises(KeyNotFound, match="with a quota"):
        server.client().usage()
