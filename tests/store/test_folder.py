"""Objects as files: what is on the disk, and what is done about foreign things there."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cachegen.errors import KeyNotFound, StoreError, StoreFull
from cachegen.store import open_store, read

MIB = 1 << 20


def test_an_object_is_a_file_of_its_key(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/b.c", b"content")
    assert (tmp_path / "a" / "b.c").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.c"]


def test_files_have_the_rights_that_the_user_gives(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        open_store(tmp_path).put("k", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o644


def test_what_is_no_object_is_passed_over(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/k", b"1")
    for name in ("a/k#1", "a/with space", "#x"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "around").symlink_to(".")
    (tmp_path / "to-nothing").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    found = list(store.list())
    assert "a/k" in found
    assert all(key.removeprefix("around/").replace("around/", "") == "a/k" for key in found)
    assert store.lookup(["a", "to-nothing", "pipe", "a/k/x"]) == [None] * 4
    for key in ("a", "pipe", "to-nothing", "a/k/x"):
        with pytest.raises(KeyNotFound, match=key):
            store.get(key)
    store.delete("a")
    store.delete("a/k/x")
    assert read(store, "a/k") == b"1"


def test_an_object_where_a_key_would_go_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a", b"1")
    with pytest.raises(StoreError, match="cannot put a/b"):
        store.put("a/b", b"2")
    assert read(store, "a") == b"1"


@pytest.mark.parametrize("thing", ["folder", "dangling link", "pipe"])
def test_what_is_no_object_does_not_pass_for_one(tmp_path: Path, thing: str) -> None:
    store = open_store(tmp_path)
    if thing == "folder":
        store.put("a/b", b"1")
    elif thing == "pipe":
        os.mkfifo(tmp_path / "a")
    else:
        (tmp_path / "a").symlink_to("nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="cannot put a: expected an object or nothing at") as said:
        store.put("a", b"2")
    assert str(said.value).endswith("use another key, or remove it")
    assert store.lookup(["a"]) == [None]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_a_file_is_an_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a", b"1")
    (tmp_path / "b").symlink_to("a")
    assert store.put("b", b"2") is False
    assert read(store, "b") == b"1"


def test_an_object_that_comes_and_goes_while_another_is_put(tmp_path: Path) -> None:
    """It was there, whatever is there when the writer looks again."""
    store, link = open_store(tmp_path), os.link

    def come_and_go(staged: Path, path: Path) -> None:
        path.write_bytes(b"1")
        try:
            link(staged, path)
        finally:
            path.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", come_and_go)
        assert store.put("a", b"2") is False
    assert not list(tmp_path.iterdir())


def test_an_object_that_is_shortened_while_it_is_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", bytes(3 * MIB))
    pieces = store.get("k")
    next(pieces)
    os.truncate(tmp_path / "k", MIB)
    with pytest.raises(StoreError, match=f"expected {3 * MIB} bytes, got {MIB}"):
        next(pieces)


def test_an_object_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", bytes(3 * MIB))
    pieces, late = store.get("k"), store.get("k")
    next(pieces)
    store.delete("k")
    assert sum(map(len, pieces)) == 2 * MIB
    with pytest.raises(KeyNotFound, match="cannot get k"):
        next(late)


def test_no_room(tmp_path: Path) -> None:
    """As the system says it; a disk that is really full is met in the benchmarks."""
    store = open_store(tmp_path)
    (tmp_path / "a").mkdir()
    error = OSError(28, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(StoreFull, match="cannot put a/k: No space left on device"):
            store.put("a/k", b"1")
    assert not list((tmp_path / "a").iterdir())


def test_readers_that_end_early_leave_no_file_open(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", bytes(3 * MIB))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        pieces = store.get("k")
        next(pieces)
        pieces.close()
        store.get("k")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_keys_come_while_others_write(tmp_path: Path) -> None:
    store, stop = open_store(tmp_path), threading.Event()
    store.put("kept/k", b"1")

    def come_and_go() -> None:
        while not stop.is_set():
            store.put("other/k", b"1")
            store.delete("other/k")
            (tmp_path / "other").rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert all("kept/k" in set(store.list()) for _ in range(200))
    finally:
        stop.set()
        other.join()
