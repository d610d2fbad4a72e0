"""Bodies that are too large, and a disk that is full."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator

import pytest
import urllib3

from cachegen.errors import StoreError, StoreFull
from cachegen.store import read

MB = 10**6


@pytest.fixture(scope="module")
def small(serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A disk of 6 MB."""
    disk = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted: {mounted.stderr.decode()}")
    try:
        with serve("--store", disk, "--max-object-mb", "5") as server:
            yield server
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_object_that_is_too_large(small) -> None:
    with pytest.raises(StoreError, match="expected at most 5000000 bytes"):
        small.client().put("k", bytes(5 * MB + 1))
    endless = (b"x" * 65536 for _ in range(80))
    answer = urllib3.request("PUT", f"{small.url}/k", body=endless, retries=False)
    assert (answer.status, small.client().lookup(["k"])) == (413, [None])


def test_a_full_disk_loses_nothing(small) -> None:
    client = small.client()
    data = random.Random(2).randbytes(4 * MB)
    assert client.put("first", data)
    with pytest.raises(StoreFull, match="cannot put second: no room"):
        client.put("second", data)
    assert client.lookup(["first", "second"]) == [len(data), None]
    assert read(client, "first") == data
    assert client.put("third", bytes(MB))
    client.delete("first")
    assert client.put("second", data)
