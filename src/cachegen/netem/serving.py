"""A server of a folder on the far side of a link."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cachegen.errors import CacheGenError
from cachegen.netem.link import Link


@contextmanager
def serving(link: Link, folder: Path) -> Iterator[str]:
    """The URL of `cachegen serve` on this folder, for the near side of the link.

    Raises:
        CacheGenError: it does not start.
    """
    command = [sys.executable, "-m", "cachegen.cli", "serve", "--store", str(folder)]
    command += ["--host", link.host, "--port", "0", "--allow-anonymous"]
    log = folder.with_name(f"{folder.name}-server.log")
    with (
        log.open("w") as errors,
        link.spawn(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        line = server.stdout.readline() if server.stdout else ""
        if not line.startswith("serving"):
            raise CacheGenError(f"expected `cachegen serve` to start, it said: {log.read_text()}")
        try:
            yield f"cachegen://{link.address(int(line.rpartition(':')[2]))}"
        finally:
            server.terminate()
