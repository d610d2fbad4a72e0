"""What a killed writer leaves: nothing, or a file that is swept and counted until then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cachegen.errors import StoreError
from cachegen.store import open_store, read, staging
from cachegen.store.folder import FolderStore

MB = 10**6
# Writes an object and stops before it gets its name; with an argument, as if files had to have one.
WRITER = """
import os, signal, sys
from cachegen.store import open_store, staging
if sys.argv[2:]:
    staging._NAMELESS = 0
def stop(*arguments, **options):
    print("written", flush=True)
    signal.pause()
os.link = stop
open_store(sys.argv[1]).put("a/b/k", bytes(10**6))
"""


def killed_writer(folder: Path, *options: str) -> None:
    command = [sys.executable, "-c", WRITER, str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def grow_old(path: Path) -> None:
    long_ago_s = time.time() - staging.STALE_S - 60
    os.utime(path, (long_ago_s, long_ago_s))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return open_store(tmp_path / "store")


@pytest.fixture
def with_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no nameless files."""
    monkeypatch.setattr(staging, "_NAMELESS", 0)


def test_a_killed_writer_leaves_no_file(store: FolderStore) -> None:
    killed_writer(store.root)
    assert files_in(store.root) == []
    assert store.sweep() == 0
    assert list(store.root.iterdir()) == []


def test_a_killed_writer_s_file_is_counted_and_then_swept(store: FolderStore) -> None:
    killed_writer(store.root, "with names")
    (left,) = files_in(store.root)
    assert store.sweep() == MB
    grow_old(left)
    assert store.sweep() == 0
    assert files_in(store.root) == []


def test_the_next_writer_sweeps_too(store: FolderStore, with_names: None) -> None:
    """So that what killed writers leave has a bound without a server: an hour's worth."""
    (store.root / "#staging").mkdir()
    for number in range(3):
        (store.root / "#staging" / f"{number}").write_bytes(bytes(MB))
        if number:
            grow_old(store.root / "#staging" / f"{number}")
    store.put("k", b"1")
    assert sorted(path.name for path in files_in(store.root)) == ["0", "k"]


def test_objects_are_the_same_where_files_must_have_names(
    store: FolderStore, with_names: None
) -> None:
    assert store.put("a/b", bytes(MB))
    assert store.put("a/b", b"other") is False
    assert read(store, "a/b") == bytes(MB)
    assert list(store.list()) == ["a/b"]
    assert files_in(store.root) == [store.root / "a" / "b"]


def test_a_writer_that_is_swept_is_told(
    store: FolderStore, with_names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(*arguments: object, **options: object) -> None:
        for path in files_in(store.root):
            grow_old(path)
        store.sweep()
        link(*arguments, **options)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreError, match="cannot put k"):
        store.put("k", b"1")
    assert files_in(store.root) == []
