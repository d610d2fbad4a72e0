from __future__ import annotations

import os
from pathlib import Path

import pytest

from cachegen.store.beneath import Folders, file_size, is_in_the_way, open_file


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/b/c", "a/d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "b" / "k").write_bytes(b"123")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a" / "d" / "link").symlink_to(tmp_path)
    return tmp_path


def test_folders_are_entered_one_after_the_other(root: Path) -> None:
    """And what two have in common stays open, so that a lookup of many keys opens few."""
    before = num_open()
    with Folders(root) as folders:
        assert file_size("k", folders.enter(["a", "b"])) == 3
        assert file_size("k", folders.enter(["a", "b", "c"])) is None
        assert num_open() - before == 4
        assert os.path.samestat(os.fstat(folders.enter([])), root.stat())
        assert num_open() - before == 1
        assert os.path.samestat(os.fstat(folders.enter(["a", "d"])), (root / "a" / "d").stat())
    assert num_open() == before


@pytest.mark.parametrize("names", [["link"], ["link", "b"], ["a", "d", "link"], ["a", "b", "k"]])
@pytest.mark.parametrize("make", [False, True])
def test_nothing_but_folders_is_entered(root: Path, names: list[str], make: bool) -> None:
    before = num_open()
    with Folders(root) as folders, pytest.raises(NotADirectoryError):
        folders.enter(names, make=make)
    assert num_open() == before


def test_a_failure_on_the_way_leaves_the_chain_usable(root: Path) -> None:
    with Folders(root) as folders:
        with pytest.raises(FileNotFoundError):
            folders.enter(["a", "none", "c"])
        assert file_size("k", folders.enter(["a", "b"])) == 3


def test_what_is_no_file(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with Folders(root) as folders:
        for name in ("a", "link", "pipe"):
            assert file_size(name, folders.root) is None
            assert is_in_the_way(name, folders.root)
            with pytest.raises(OSError):
                open_file(name, folders.root)
        assert not is_in_the_way("none", folders.root)


def test_only_empty_folders_are_removed(root: Path) -> None:
    with Folders(root) as folders:
        folders.enter(["a", "b", "c"])
        folders.prune()
        assert not (root / "a" / "b" / "c").exists()
        assert (root / "a" / "b" / "k").exists()
        folders.enter(["new", "x"], make=True)
        folders.prune()
    assert sorted(path.name for path in root.iterdir()) == ["a", "link"]
