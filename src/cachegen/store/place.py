"""Folders of stores: the path that a text means, and a check that it exists."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cachegen.errors import StoreError
from cachegen.store.folder import kind_of


def absolute(text: str) -> Path:
    """The folder of a path: from ``~`` or the working directory, without ``..``.

    Raises:
        ValueError: the home folder of a user that does not exist.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise ValueError(
            f"expected the name of a user after '~', got {user!r}; write './{text}' for a folder "
            "of that name"
        )
    # POSIX lets two leading slashes mean something of their own, so that `abspath` keeps them.
    return Path("/" + os.path.abspath(expanded).lstrip("/"))


def check_folder(path: Path, *, create: bool) -> None:
    """Check that a folder exists; with `create` make it if it is missing.

    Raises:
        StoreError: the folder is missing, cannot be made, or the path is something else;
            StoreDenied or StoreFull where that is the reason.
    """
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreError(f"{path}: expected a folder, but {_no_folder(path)} is none") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise StoreError(
                f"there is no folder {path}: save a context there first, or check the path"
            ) from error
        doing = "make" if create else "use"
        raise kind_of(error)(f"{path}: cannot {doing} the folder: {error.strerror}") from error
    if not is_folder:
        raise StoreError(f"{path}: expected a folder, but it is none")


def _no_folder(path: Path) -> Path:
    """The first part of a path that exists and is no folder."""
    return next((part for part in (*path.parents[::-1], path) if not part.is_dir()), path)
