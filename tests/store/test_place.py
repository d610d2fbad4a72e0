"""Which folder a path means, and what is said where it is none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cachegen.errors import StoreDenied, StoreError, StoreFull
from cachegen.store import open_store, read
from cachegen.store.place import alone_in

HOMES = ["~/kv", "~/kv/", "~//kv", "~/x/../kv", Path("~/kv")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, which is not the working directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.mark.parametrize("path", HOMES, ids=str)
def test_a_tilde_is_the_home_folder(home: Path, path: str | Path) -> None:
    store = open_store(path)
    store.put("k", b"1")
    assert (home / "kv" / "k").read_bytes() == b"1"
    assert store.url == str(home / "kv")
    assert not list(Path.cwd().iterdir())


def test_the_home_folder_of_another_user(home: Path) -> None:
    with pytest.raises(ValueError, match="name of a user after '~', got '~nobody-here'"):
        open_store("~nobody-here/kv")
    open_store("./~nobody-here/kv").put("k", b"1")
    assert (Path.cwd() / "~nobody-here" / "kv" / "k").is_file()
    assert open_store(Path("~root").expanduser(), create=False).url == os.path.expanduser("~root")


@pytest.mark.parametrize("name", ["kv", "./kv", "x/../kv", "kv/", "//kv", "kv//"])
def test_the_name_of_a_folder_is_its_absolute_path(
    home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path.cwd() / "kv"
    store = open_store(f"/{folder}" if name == "//kv" else name)
    assert store.url == str(folder)
    monkeypatch.chdir("/")
    store.put("k", b"1")
    assert (folder / "k").is_file()


def test_a_link_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = open_store(tmp_path / "link")
    assert store.url == str(tmp_path / "link")
    store.put("k", b"1")
    assert read(open_store(tmp_path / "real"), "k") == b"1"


@pytest.mark.parametrize("form", [str, Path, Path.as_uri])
def test_a_folder_that_is_missing_stays_missing(tmp_path: Path, form) -> None:
    folder = tmp_path / "not" / "there"
    with pytest.raises(StoreError) as failure:
        open_store(form(folder), create=False)
    message = f"there is no folder {folder}: save a context there first, or check the path"
    assert str(failure.value) == message
    assert not list(tmp_path.iterdir())
    open_store(form(folder))
    assert open_store(form(folder), create=False).lookup(["k"]) == [None]


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_folder(tmp_path: Path, create: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    with pytest.raises(StoreError, match=f"{file}: expected a folder"):
        open_store(file, create=create)
    with pytest.raises(StoreError, match=str(file)):
        open_store(file / "below", create=create)
    assert file.read_bytes() == b"kept"


def test_a_folder_that_nobody_may_write(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    store, folder = open_store(tmp_path / "kv"), tmp_path / "kv"
    folder.chmod(0o500)
    with pytest.raises(StoreDenied, match=r"cannot put k: Permission denied"):
        store.put("k", b"1")
    with pytest.raises(StoreDenied, match=r"cannot make the folder: Permission denied"):
        open_store(folder / "below")
    folder.chmod(0o700)


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_that_nobody_may_look_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("stat", "is_dir", "mkdir"):
        monkeypatch.setattr(Path, name, denied)
    doing = "make" if create else "use"
    with pytest.raises(StoreDenied, match=f"kv: cannot {doing} the folder: Permission denied"):
        open_store(tmp_path / "kv", create=create)


def test_no_room_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreFull, match="kv: cannot make the folder: No space left"):
        open_store(tmp_path / "kv")


@pytest.mark.parametrize("folder", ["/proc/kv", "/dev/null/kv"])
def test_where_no_folder_can_be(folder: str) -> None:
    with pytest.raises(StoreError, match=folder.removesuffix("/kv")):
        open_store(folder)


def test_one_server_a_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        with pytest.raises(StoreError, match=f"its only server, but process {os.getpid()} serves"):
            alone_in(tmp_path).__enter__()
        assert list(open_store(tmp_path).list()) == []
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_can_only_be_read_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refused)
    with alone_in(tmp_path):
        pass


def test_the_lock_of_another_user_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone_in(tmp_path):
        open_ = os.open

        def only_for_reading(path: str, flags: int, *arguments: object) -> int:
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "Permission denied")
            return open_(path, flags, *arguments)

        monkeypatch.setattr(os, "open", only_for_reading)
        with pytest.raises(StoreError, match="expected to be its only server"):
            alone_in(tmp_path).__enter__()


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "#server").symlink_to("file")
    with pytest.raises(StoreError, match="cannot lock the folder"):
        alone_in(tmp_path).__enter__()
    assert (tmp_path / "file").read_bytes() == b"kept"
