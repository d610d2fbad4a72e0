"""Real server processes that are killed and come back, and one whose certificate has expired."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import trustme

from cachegen.netem.relay import LOOPBACK

TOKEN, SALT = "right", "a salt"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def started(*options: object, log: IO[str] | None = None) -> tuple[subprocess.Popen[str], int]:
    """A process of `cachegen serve`, once it listens, and its port.

    Raises:
        RuntimeError: it did not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "cachegen.cli", "serve", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=os.environ | ONE_THREAD,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        said = "" if log is None else f", see {log.name}"
        raise RuntimeError(f"the server did not start{said}")
    return process, urlsplit(line.split()[-1]).port or 0


@dataclass(slots=True, eq=False)
class Server:
    """`cachegen serve` on a folder; a new process, and a new port, after each start.

    Attributes:
        folder: where the objects are.
        options: further options of the command.
        process: the running one.
        port: where it listens.
    """

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    port: int = 0

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process, self.port = started("--store", self.folder, "--port", 0, *self.options)

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.process is not None:
            self.process.kill()

    def end(self) -> None:
        """Kill it and take leave of it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def restart(self) -> None:
        """A new process in place of the dead one."""
        self.end()
        self.start()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """A server that runs during the block."""
    server = Server(folder, options)
    try:
        server.start()
        yield server
    finally:
        server.end()


def write_tokens(path: Path) -> Path:
    """The file of the one tenant."""
    tenant = {"name": "tenant", "token": TOKEN, "salt": SALT}
    path.write_text(json.dumps({"tenants": [tenant]}))
    return path


@contextmanager
def expired(folder: Path, certificates: Path, *options: str) -> Iterator[Server]:
    """A TLS server whose certificate ended yesterday; its authority is trusted during the block."""
    authority, now = trustme.CA(), datetime.now(UTC)
    leaf = authority.issue_cert(
        LOOPBACK, not_before=now - timedelta(days=3), not_after=now - timedelta(days=1)
    )
    chain, key, root = (certificates / name for name in ("chain.pem", "key.pem", "root.pem"))
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    tls = ("--tls-cert", str(chain), "--tls-key", str(key))
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(root)
    try:
        with serving(folder, *tls, *options) as server:
            yield server
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before
