from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cachegen.store import open_store
from cachegen.store.staging import STALE_S


def test_empty_folders_go_and_nothing_else(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/k", b"1")
    for name in ("a/b/c/d", "e/f", "with space/inside", "a/g"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("e")
    (tmp_path / "a" / "g" / "note with space").write_bytes(b"")
    assert store.sweep() == 0
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [
        *("a", "a/g", "a/g/note with space", "a/k", "link", "with space", "with space/inside")
    ]


def test_files_of_killed_writers_as_they_were_named_before(tmp_path: Path) -> None:
    store, old = open_store(tmp_path), time.time() - STALE_S - 60
    store.put("a/k", b"1")
    names = {"a/k#0123456789abcdef": old, "b/k#0123456789abcdef": old, "c/k#fedcba9876543210": None}
    for name, written_s in names.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1000))
        if written_s is not None:
            os.utime(tmp_path / name, (written_s, written_s))
    os.utime(tmp_path / "a" / "k", (old, old))
    assert store.sweep() == 1000
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["a", "a/k", "c", "c/k#fedcba9876543210"]


def test_folders_as_deep_as_keys_were_before(tmp_path: Path) -> None:
    (tmp_path / "/".join("k" * 255)).mkdir(parents=True)
    open_store(tmp_path).sweep()
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_gone_or_cannot_be_read_is_no_failure(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    (tmp_path / "store").rmdir()
    assert store.sweep() == 0


def test_what_may_not_be_changed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    left = tmp_path / "a" / "k#0123456789abcdef"
    left.parent.mkdir()
    left.write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, denied)
    assert open_store(tmp_path).sweep() == 1000
    assert left.exists()


MEASURED = """
import resource, sys
from cachegen.store import open_store
store = open_store(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.sweep()
assert sum(1 for _ in store.list()) == 10000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_many_files_in_a_folder_take_no_memory(tmp_path: Path) -> None:
    """A sweep and a listing take them one after the other: 10,000 names would be 1.5 MB or more."""
    (tmp_path / "a").mkdir()
    folder = os.open(tmp_path / "a", os.O_RDONLY)
    for number in range(10_000):
        os.mknod(f"{number:064}", dir_fd=folder)
    os.close(folder)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700, "KiB"


@pytest.mark.parametrize("depth", [1, 16])
def test_a_listing_keeps_few_files_open(tmp_path: Path, depth: int) -> None:
    store = open_store(tmp_path)
    store.put("/".join("k" * depth), b"1")
    before = len(os.listdir("/proc/self/fd"))
    keys = store.list()
    next(keys)
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * depth
    keys.close()
    assert len(os.listdir("/proc/self/fd")) == before
