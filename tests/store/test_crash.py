"""Writers killed at random moments leave whole objects or nothing."""

from __future__ import annotations

import hashlib
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachegen.store import Store, open_store, read

WRITER = Path(__file__).with_name("writer.py")
ROUNDS, MOST_ROUNDS = 32, 320


class Writers:
    """The process that starts writers, and its two pipes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, command: str) -> str:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    command = [sys.executable, str(WRITER)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Writers(process)
        process.stdin.close()


def check_objects(store: Store, seen: set[str], *, until_s: float) -> None:
    """Every object that is listed holds what its key promises; checked ones are removed."""
    for key in list(store.list()):
        if time.monotonic() > until_s:
            return
        assert hashlib.sha256(read(store, key)).hexdigest() == key.rpartition("/")[2]
        seen.add(key)
        store.delete(key)


def interrupted_keys(directory: Path, contents: list[bytes]) -> set[str]:
    """Keys whose writer died between making the key's folder and naming the file there."""
    folders = (
        path.relative_to(directory) for path in directory.glob("*/*") if not any(path.iterdir())
    )
    return {
        f"{folder}/{hashlib.sha256(contents[int(folder.name)]).hexdigest()}" for folder in folders
    }


def test_readers_of_killed_writers_see_whole_objects(tmp_path: Path, writers: Writers) -> None:
    store, moments, seen = open_store(tmp_path), random.Random(2024), set()
    interrupted: set[str] = set()
    contents = runpy.run_path(str(WRITER))["make_contents"]()
    for seed in range(MOST_ROUNDS):
        if seed >= ROUNDS and len(interrupted) >= 3:
            break
        pid = int(writers.ask(f"write {seed} {tmp_path}"))
        kill_at_s = time.monotonic() + moments.uniform(0.002, 0.02)
        while time.monotonic() < kill_at_s:
            check_objects(store, seen, until_s=kill_at_s)
        os.kill(pid, signal.SIGKILL)
        assert writers.answer() == "dead"
        check_objects(store, seen, until_s=math.inf)
        interrupted = interrupted_keys(tmp_path, contents)
    assert len(seen) >= 3, "too few writers finished a put"
    assert len(interrupted) >= 3, "too few writers were killed inside a put"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "what was written stays"
    check_recovery(store, interrupted, contents)


def check_recovery(store: Store, interrupted: set[str], contents: list[bytes]) -> None:
    """What was interrupted is not there, and can be put as if nothing had happened."""
    assert list(store.list()) == []
    for key in interrupted:
        data = contents[int(key.split("/")[1])]
        assert store.lookup([key]) == [None]
        assert store.put(key, data)
        assert store.put(key, b"other") is False
        assert read(store, key) == data


def test_one_of_many_processes_creates(tmp_path: Path, writers: Writers) -> None:
    store = open_store(tmp_path)
    for number in range(15):
        assert writers.ask(f"race contested/{number} {tmp_path}") == "1"
        content = read(store, f"contested/{number}")
        assert content == content[:1] * 300_000
