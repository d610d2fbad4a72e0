from __future__ import annotations

from cachegen.engines.vllm.scheduler import requests
from cachegen.engines.vllm.scheduler.requests import Exactness, Names


def test_blocks_are_what_was_last_written() -> None:
    blocks = Exactness()
    blocks.note([1, 2], is_exact=False)
    assert blocks.are_exact([3, 4]) and not blocks.are_exact([3, 1])
    blocks.note([1], is_exact=True)
    assert blocks.are_exact([1]) and not blocks.are_exact([2])


def test_names_are_forgotten_oldest_first(monkeypatch) -> None:
    monkeypatch.setattr(requests, "_MOST_NAMES", 2)
    names = Names()
    names.add([b"1", b"2", b"3"])
    assert b"1" not in names and b"2" in names and b"3" in names
    names.remove([b"3", b"9"])
    assert b"3" not in names
    names.clear()
    assert b"2" not in names
