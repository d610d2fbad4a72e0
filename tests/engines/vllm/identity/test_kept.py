"""A fingerprint is computed once, by whoever comes first, and done without a folder."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cachegen.engines.vllm.identity.kept import kept
from cachegen.loading.measurements import FOLDER_VARIABLE

FOUND = bytes(range(32))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def never() -> bytes:
    raise AssertionError("it is known")


def test_is_computed_once() -> None:
    assert kept("a", lambda: FOUND) == FOUND
    assert kept("a", never) == FOUND
    assert kept("b", lambda: bytes(32)) == bytes(32)


def test_who_asks_meanwhile_waits() -> None:
    computed: list[int] = []
    answers: list[bytes] = []

    def slow() -> bytes:
        computed.append(1)
        time.sleep(0.2)
        return FOUND

    threads = [threading.Thread(target=lambda: answers.append(kept("a", slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [FOUND] * 4
    assert len(computed) == 1


@pytest.mark.parametrize("content", ["", "no digits", "00ff"])
def test_a_damaged_file_is_computed_again(folder: Path, content: str) -> None:
    kept("a", lambda: FOUND)
    [file] = (folder / "fingerprints").glob("a.fingerprint")
    file.write_text(content)
    assert kept("a", lambda: bytes(32)) == bytes(32)
    assert kept("a", never) == bytes(32)


def test_goes_without_a_folder(folder: Path) -> None:
    (folder / "fingerprints").write_text("a file is in the way")
    assert kept("a", lambda: FOUND) == FOUND
