"""One store a URL for a whole process, found again wherever it is asked for."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from cachegen.errors import StoreError
from cachegen.store import open_store, read, shared_store


def test_a_store_is_given_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert shared_store(store, create=False) is store


def test_a_folder_is_the_same_store_whatever_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    store = shared_store("kv", create=True)
    names = ["kv", "./kv/", tmp_path / "kv", f"{tmp_path}/x/../kv", "~/kv", Path("~/kv")]
    names += [(tmp_path / "kv").as_uri()]
    assert all(shared_store(name, create=False) == store for name in names)


def test_a_relative_path_follows_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.append(shared_store("kv", create=True))
        assert found[-1].url == str(tmp_path / name / "kv")
    assert found[0] != found[1]


def test_memory_stays_whatever_else_is_opened(tmp_path: Path) -> None:
    shared_store("memory:", create=True).put("kept", b"1")
    for number in range(200):
        shared_store(f"cachegen://127.0.0.1:{number + 1}", create=True)
    store = shared_store("memory://", create=False)
    assert read(store, "kept") == b"1"
    assert store is shared_store("memory:", create=True)
    store.delete("kept")


def test_folders_do_not_displace_connections(tmp_path: Path) -> None:
    store = shared_store("cachegen://127.0.0.1:9", create=False)
    for number in range(200):
        shared_store(tmp_path / f"{number}", create=True)
    assert shared_store("cachegen://127.0.0.1:9", create=False) is store


def test_a_missing_folder_is_no_store_and_stays_missing(tmp_path: Path) -> None:
    for name in (tmp_path / "kv", (tmp_path / "kv").as_uri()):
        with pytest.raises(StoreError, match=f"there is no folder {tmp_path / 'kv'}: save a"):
            shared_store(name, create=False)
    assert not (tmp_path / "kv").exists()
    shared_store(tmp_path / "kv", create=True).put("k", b"1")
    assert read(shared_store(tmp_path / "kv", create=False), "k") == b"1"


def test_a_folder_that_is_gone_is_missed_and_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    shared_store(folder, create=True)
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="there is no folder"):
        shared_store(folder, create=False)
    store = shared_store(folder, create=True)
    assert folder.is_dir()
    shutil.rmtree(folder)
    assert store.put("a/b", b"1")
    assert (folder / "a" / "b").read_bytes() == b"1"


def test_a_token_that_is_set_later_is_used(monkeypatch) -> None:
    before = shared_store("cachegen://127.0.0.1:9", create=False)
    assert shared_store("cachegen://127.0.0.1:9", create=False) is before
    monkeypatch.setenv("CACHEGEN_TOKEN", "new")
    assert shared_store("cachegen://127.0.0.1:9", create=False) is not before


def test_one_store_also_for_threads_at_once() -> None:
    barrier, found = threading.Barrier(8), []

    def ask() -> None:
        barrier.wait(10)
        found.append(shared_store("cachegen://127.0.0.1:10", create=True))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(map(id, found))) == 1


def test_nothing_is_asked_of_a_server_while_it_is_opened() -> None:
    assert shared_store("redis://127.0.0.1:9", create=False).url == "redis://127.0.0.1:9"


@pytest.mark.parametrize("thing", [None, 123, b"kv"])
def test_what_is_no_store_is_refused(thing):
    with pytest.raises(TypeError, match="expected a store, a folder or the URL of one"):
        shared_store(thing, create=True)
