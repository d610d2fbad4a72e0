"""The commands `ip` and `tc`, looked for in the folders of administrators too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from cachegen.errors import CacheGenError

_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/local/sbin"))


class AlreadyThere(CacheGenError):
    """A device or namespace that was to be made exists already."""


def program(name: str) -> str:
    """The path of a program.

    Raises:
        CacheGenError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise CacheGenError(f"expected the program {name!r} of iproute2, which is not installed")
    return found


def execute(*command: str, lines: Sequence[str] = ()) -> str:
    """Run a command with lines on its standard input and return what it prints.

    Raises:
        CacheGenError: it is not installed, or fails.
    """
    name, *args = command
    given = "\n".join(lines)
    done = subprocess.run([program(name), *args], input=given, capture_output=True, text=True)
    if done.returncode:
        error = AlreadyThere if "File exists" in done.stderr else CacheGenError
        raise error(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
