"""Objects as files: what is on the disk, and what is done about foreign things there."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachegen.errors import KeyNotFound, StoreDenied, StoreError, StoreFull
from cachegen.store import open_store, read
from cachegen.store.protocol import MAX_KEY_SEGMENTS, MAX_SEGMENT_LENGTH

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
    assert list(store.list()) == ["a/k"]
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


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither to a file nor to a folder, wherever in a key: behind one there is no object."""
    store = open_store(tmp_path / "store")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"not yours")
    store.put("own", b"1")
    (store.root / "file").symlink_to(tmp_path / "outside" / "secret")
    (store.root / "folder").symlink_to(tmp_path / "outside")
    (store.root / "inside").symlink_to("own")
    assert store.lookup(["file", "folder/secret", "inside"]) == [None] * 3
    for key in ("file", "folder/secret", "inside"):
        with pytest.raises(KeyNotFound, match=key):
            store.get(key)
        store.delete(key)
        with pytest.raises(StoreError, match=f"cannot put {key}: expected .* link"):
            store.put(key, b"2")
    with pytest.raises(StoreError, match="links are not followed"):
        store.put("folder/new/key", b"2")
    assert (list(store.list()), list(store.list("folder"))) == (["own"], [])
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    assert sorted(path.name for path in store.root.iterdir()) == ["file", "folder", "inside", "own"]


def test_a_folder_that_becomes_a_link_between_two_steps(tmp_path: Path) -> None:
    """A check of the path before its use would let this through."""
    store, open_ = open_store(tmp_path / "store"), os.open
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "k").write_bytes(b"not yours")
    store.put("a/k", b"1")

    def replace_then_open(path: str | Path, *arguments: object, **options: object) -> int:
        if path == "a":
            (store.root / "a").rename(tmp_path / "away")
            (store.root / "a").symlink_to(tmp_path / "outside")
        return open_(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", replace_then_open)
        with pytest.raises(KeyNotFound):
            store.get("a/k")


def test_an_object_that_comes_and_goes_while_another_is_put(tmp_path: Path) -> None:
    """It was there, whatever is there when the writer looks again."""
    store, link = open_store(tmp_path), os.link

    def come_and_go(source: str, name: str, **options: object) -> None:
        (tmp_path / name).write_bytes(b"1")
        try:
            link(source, name, **options)
        finally:
            (tmp_path / name).unlink()

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
    assert (sum(map(len, pieces)), sum(map(len, late))) == (2 * MIB, 3 * MIB)
    with pytest.raises(KeyNotFound, match="cannot get k"):
        store.get("k")


def test_an_object_that_is_replaced_is_the_one_that_was_opened(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", b"1" * 10)
    before = store.get("k")
    (tmp_path / "new").write_bytes(b"2" * 20)
    (tmp_path / "new").rename(tmp_path / "k")
    after = store.get("k", (5, 30))
    assert (before.size_bytes, b"".join(before)) == (10, b"1" * 10)
    assert (after.size_bytes, b"".join(after)) == (20, b"2" * 15)


def test_an_object_that_is_written_to_while_it_is_read(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", bytes(3 * MIB))
    pieces = store.get("k")
    next(pieces)
    with (tmp_path / "k").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StoreError, match="cannot get k: it was written to while it was read"):
        list(pieces)


def test_no_room(tmp_path: Path) -> None:
    """As the system says it; a disk that is really full is met in the benchmarks."""
    store = open_store(tmp_path)
    (tmp_path / "a").mkdir()
    error = OSError(28, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(StoreFull, match="cannot put a/b/k: No space left on device"):
            store.put("a/b/k", b"1")
    assert not list(tmp_path.iterdir())


def test_readers_that_end_early_leave_no_file_open(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("k", bytes(3 * MIB))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        pieces = store.get("k")
        next(pieces)
        pieces.close()
        store.get("k")
        next(store.list())
        with pytest.raises(StoreError):
            store.get("k", (3 * MIB, 4 * MIB))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_keys_come_while_others_write(tmp_path: Path) -> None:
    store, stop = open_store(tmp_path), threading.Event()
    store.put("kept/k", b"1")

    def come_and_go() -> None:
        while not stop.is_set():
            store.put("other/k", b"1")
            store.delete("other/k")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert all("kept/k" in set(store.list()) for _ in range(200))
    finally:
        stop.set()
        other.join()


def test_a_folder_goes_with_its_last_object(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    for key in ("a/b/c/1", "a/b/2", "a/3"):
        store.put(key, b"1")
    store.delete("a/b/c/1")
    assert sorted(path.name for path in store.root.rglob("*")) == ["2", "3", "a", "b"]
    store.delete("a/b/2")
    store.delete("a/3")
    assert not list(store.root.iterdir())
    assert store.root.is_dir()


def test_who_writes_where_a_folder_goes_makes_it_again(tmp_path: Path) -> None:
    """Two that put and delete in the same folder, so that each finds it gone at any moment."""
    store, num_rounds = open_store(tmp_path), 60

    def come_and_go(name: str) -> int:
        created = 0
        for _ in range(num_rounds):
            created += store.put(f"a/b/{name}", name.encode())
            assert read(store, f"a/b/{name}") == name.encode()
            store.delete(f"a/b/{name}")
        return created

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(come_and_go, "xyz")) == [num_rounds] * 3
    assert not list(tmp_path.iterdir())


def test_the_longest_and_deepest_keys(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    longest = "/".join(["k" * MAX_SEGMENT_LENGTH] * 2)
    deepest = "/".join("k" * MAX_KEY_SEGMENTS)
    for key in (longest, deepest):
        assert store.put(key, b"1")
        assert read(store, key) == b"1"
    assert sorted(store.list()) == sorted([longest, deepest])
    for key in (longest, deepest):
        store.delete(key)
    assert not list(tmp_path.iterdir())


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at a folder while the context lasts."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_can_only_be_read(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m"):
        open_store(tmp_path).put("a/k", b"1")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        store = open_store(tmp_path)
        assert (read(store, "a/k"), list(store.list())) == (b"1", ["a/k"])
        assert store.put("a/k", b"2") is False
        for verb in (lambda: store.put("a/new", b"1"), lambda: store.delete("a/k")):
            with pytest.raises(StoreDenied, match="Read-only file system"):
                verb()
        with pytest.raises(StoreDenied, match="cannot make the folder: Read-only"):
            open_store(tmp_path / "below")


def test_a_file_system_without_room_for_more_files(tmp_path: Path) -> None:
    with mounted(tmp_path, "size=1m,nr_inodes=8"):
        store = open_store(tmp_path)
        store.put("a", b"1")
        for key in ("1/2/3/4/5/6/7/8/9", "1/2/3/4/5/6/7"):
            with pytest.raises(StoreFull, match=f"cannot put {key}: No space"):
                store.put(key, b"1")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert store.put("1/2/3", b"1")
