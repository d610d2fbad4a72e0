"""What is at its place is whole."""

import pytest

from training.open_models.whole import alone_in, new_file, new_folder, sha256_of


def test_a_file_appears_when_it_is_written(tmp_path):
    path = tmp_path / "file"
    with new_file(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert sha256_of(path).startswith("ba7816bf")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"), new_file(path) as file:
        file.write(b"new")
        raise OSError("full")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_filled(tmp_path):
    path = tmp_path / "folder"
    leftover = tmp_path / ".folder.part"
    leftover.mkdir()
    (leftover / "old").write_bytes(b"")
    with new_folder(path) as part:
        (part / "new").write_bytes(b"")
        assert not path.exists()
    assert [inner.name for inner in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "folder"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_meet(tmp_path):
    folder = tmp_path / "models"
    refused = pytest.raises(ValueError, match="another run is at work")
    with alone_in(folder), refused, alone_in(folder):
        pass
    with alone_in(folder):
        pass
