"""The output file of a long run: checked before the run, replaced in one step after it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachegen.codec.profile import Profile


def check_place(path: Path, *, check: Callable[[Path], object] | None = None) -> Path:
    """Find out before the work whether a file can be written; nothing that is there is touched.

    Args:
        path: the file.
        check: reads a file, and raises where it is none of those that may be replaced; by default
            all may.

    Returns:
        The path, links followed.

    Raises:
        ValueError: it cannot; the message says why.
    """
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise ValueError(f"expected a file to write, got the folder {path}; name a file in it")
    if place.exists() and not place.is_file():
        raise ValueError(f"expected a file to write, got {path}, which is no regular file")
    if not place.parent.is_dir():
        raise ValueError(f"there is no folder {place.parent} to write {path.name} to; make it")
    if place.exists() and not os.access(place, os.W_OK):
        raise ValueError(f"{path} is read-only; name another file or make it writable")
    if check is not None and place.is_file() and place.stat().st_size:
        try:
            check(place)
        except Exception as exc:
            raise ValueError(
                f"{path} is there and cannot be replaced: expected a file like the one to be "
                f"written; name another, or remove it ({exc})"
            ) from exc
    part = _part(place)
    try:
        part.touch()
        part.unlink()
    except OSError as exc:
        raise ValueError(f"no file can be written in {place.parent}: {exc}") from exc
    return place


def write_checked(place: Path, data: bytes, *, check: Callable[[Path], None]) -> None:
    """Write beside the place, check what was written, then move it there.

    Args:
        place: where an earlier file may be; it stays as it is unless all goes well.
        data: of the file.
        check: reads the file that it is given, and raises where it is not as it should be.

    Raises:
        OSError: it cannot be written.
        Exception: whatever `check` raises.
    """
    part = _part(place)
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check(part)
        if place.exists():
            shutil.copymode(place, part)
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def reads_as(profile: Profile, place: Path) -> Callable[[Path], None]:
    """A check that a file is this profile to a reader."""
    from cachegen.codec.profile import read_profile
    from cachegen.errors import CacheGenError

    def check(part: Path) -> None:
        try:
            same = read_profile(part).file_bytes == profile.file_bytes
        except CacheGenError as exc:
            raise ValueError(
                f"the profile just made cannot be read back ({exc}): {place} is left as it was; "
                "this is a mistake of cachegen, please report it"
            ) from exc
        if not same:
            raise ValueError(
                f"what was read back is not the profile just written: {place} is left as it was; "
                "check the disk and give the same command again"
            )

    return check


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.part")
