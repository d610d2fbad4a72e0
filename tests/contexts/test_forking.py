"""A process that has loaded forks: its children load and save, or are told why they cannot."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.conftest import s3_server

__all__ = ["s3_server"]  # a fixture

FORKER = Path(__file__).with_name("forker.py")
LIMIT_S = 100
EVERYTHING = "putting,children,saving,busy,together"


def run_forker(*arguments: str) -> None:
    """Into a file: the end of a pipe would be waited for as long as a child that hangs has it."""
    command = [sys.executable, str(FORKER), *arguments]
    with tempfile.TemporaryFile("w+") as said:
        ran = subprocess.run(command, stdout=said, stderr=said, timeout=LIMIT_S, check=False)
        said.seek(0)
        text = said.read()
    assert ran.returncode == 0, text
    assert text.split() == [*",".join(arguments[::2]).split(","), "done"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """`cachegen serve`: its folder, and where it listens."""
    folder = tmp_path_factory.mktemp("served")
    options = ["--store", str(folder), "--port", "0"]
    command = [sys.executable, "-m", "cachegen.cli", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield folder, process.stdout.readline().strip().rpartition("//")[2]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    options += ["--dir", str(tmp_path_factory.mktemp("redis"))]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        try:
            await_port(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def await_port(port: int) -> None:
    give_up_s = time.monotonic() + 30
    while time.monotonic() < give_up_s:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
    pytest.fail(f"nothing listens at port {port}")


def test_children_load_and_save(served: tuple[Path, str], tmp_path: Path) -> None:
    """See the script: grandchildren, forks while other threads load, all processes at once."""
    folder, host = str(tmp_path / "store"), f"cachegen://{served[1]}"
    run_forker(EVERYTHING, "memory:", EVERYTHING, folder, EVERYTHING, host)


@pytest.mark.slow
def test_children_load_and_save_in_redis(redis: str) -> None:
    run_forker(EVERYTHING, redis)


def test_children_wait_for_no_thread_of_their_parent(tmp_path: Path) -> None:
    """Neither for those of loads under way nor for those of a model that used all cores."""
    run_forker("putting,held,recomputing", str(tmp_path / "store"))


@pytest.mark.slow  # five processes that import PyTorch, for what `cachegen serve` shows by default
def test_children_load_over_plain_http(served: tuple[Path, str]) -> None:
    folder, host = served
    run_forker("putting", str(folder), "children", f"http://{host}/")


def test_children_are_told_of_stores_that_need_threads(s3_server: str, monkeypatch) -> None:
    """With a model they recompute instead."""
    monkeypatch.setenv("AWS_ENDPOINT", s3_server)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    run_forker("putting,refused", "s3://bucket/forking")
