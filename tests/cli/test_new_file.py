"""Results take their place whole and checked, or leave what is there as it was."""

import os
from pathlib import Path

import pytest

from cachegen import refmodel
from cachegen.cli.new_file import check_place, reads_as, write_checked
from cachegen.codec.profile import read_profile


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text("kept")
    assert check_place(earlier) == earlier
    assert check_place(tmp_path / "new") == tmp_path / "new"
    assert [path.name for path in tmp_path.iterdir()] == ["earlier"]
    assert earlier.read_text() == "kept"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got the folder .*; name a file in it"):
        check_place(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*; make it"):
        check_place(tmp_path / "missing" / "profile")
    with pytest.raises(ValueError, match="no regular file"):
        check_place(Path(os.devnull))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="there is no folder"):
        check_place(tmp_path / "file" / "profile")
    with pytest.raises(ValueError, match="no file can be written in /proc"):
        check_place(Path("/proc/profile"))


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text("kept")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="is read-only; name another file"):
        check_place(earlier)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "profile")
    write_checked(check_place(tmp_path / "link"), b"data", check=lambda part: None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "profile").read_bytes() == b"data"


def test_what_fails_the_check_does_not_take_its_place(tmp_path: Path) -> None:
    place = tmp_path / "profile"
    place.write_bytes(b"earlier")
    place.chmod(0o640)

    def refuse(part: Path) -> None:
        assert part.read_bytes() == b"later"
        raise ValueError("not as it should be")

    with pytest.raises(ValueError, match="not as it should be"):
        write_checked(place, b"later", check=refuse)
    assert place.read_bytes() == b"earlier"
    write_checked(place, b"later", check=lambda part: None)
    assert place.read_bytes() == b"later"
    assert place.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["profile"]


def test_a_profile_is_checked_by_reading_it(tmp_path: Path) -> None:
    data = refmodel.profile_path("plain").read_bytes()
    profile = read_profile(data)
    check = reads_as(profile, tmp_path / "profile")
    (tmp_path / "part").write_bytes(data)
    check(tmp_path / "part")
    other = refmodel.profile_path("transform").read_bytes()
    for wrong, message in ((other, "not the profile just written"), (data[:-1], "read back")):
        (tmp_path / "part").write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            check(tmp_path / "part")


def test_what_is_none_of_those_that_may_be_replaced_is_left_alone(tmp_path: Path) -> None:
    """A slip of the hand may name a text, or the model's weights."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time")
    with pytest.raises(ValueError, match=r"text.txt is there and cannot be replaced"):
        check_place(text, check=read_profile)
    assert text.read_text() == "Once upon a time"
    empty = tmp_path / "empty"
    empty.touch()
    assert check_place(empty, check=read_profile) == empty
