"""`cachegen serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cachegen.store import Store, open_store


@dataclass
class Server:
    """A running server; `url` begins with http or https."""

    process: subprocess.Popen[str]
    store: str
    url: str

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def client(self, token: str = "", *, timeout_s: float = 10.0) -> Store:
        scheme = "cachegens" if self.url.startswith("https") else "cachegen"
        return open_store(f"{scheme}://:{token}@{self.host}", timeout_s=timeout_s)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


Serve = Callable[..., AbstractContextManager[Server]]


# The command with other values for limits that have no option.
WITH_LIMITS = """
import functools, json, sys
from cachegen.server import limits
limits.Limits = functools.partial(limits.Limits, **json.loads(sys.argv.pop(1)))
from cachegen.cli import main
main()
"""


@contextlib.contextmanager
def serving(
    *options: object, errors: Path | None = None, limits: dict[str, float] | None = None
) -> Iterator[Server]:
    started = ["-m", "cachegen.cli"] if limits is None else ["-c", WITH_LIMITS, json.dumps(limits)]
    command = [sys.executable, *started, "serve", "--port", "0", *map(str, options)]
    with contextlib.ExitStack() as stack:
        said = stack.enter_context((errors or Path(os.devnull)).open("w"))
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        )
        stack.callback(process.kill)
        line = process.stdout.readline()
        assert line.startswith("serving "), f"{command} said {line!r}"
        store, _, url = line.removeprefix("serving ").strip().rpartition(" at ")
        yield Server(process, store, url)


@pytest.fixture(scope="session")
def serve() -> Serve:
    """`with serve("--store", ...) as server` starts one and kills it at the end."""
    return serving


@pytest.fixture(scope="session")
def two_tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an operator and of a tenant with a quota of 5 MB."""
    tenants = [
        {"name": "a", "token": "token-a", "salt": "1", "operator": True},
        {"name": "b", "token": "token-b", "salt": "2", "quota_mb": 5},
    ]
    path = tmp_path_factory.mktemp("tenants") / "tenants.json"
    path.write_text(json.dumps({"tenants": tenants}))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One without tenants and limits."""
    with serving("--store", tmp_path_factory.mktemp("served")) as started:
        yield started
