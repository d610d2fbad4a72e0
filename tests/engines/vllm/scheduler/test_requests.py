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
    assert [names.has(name, asked_s=5.0) for name in (b"1", b"2", b"3")] == [False, True, True]
    names.remove([b"3", b"9"])
    assert not names.has(b"3", asked_s=5.0)
    names.clear()
    assert not names.has(b"2", asked_s=5.0)


def test_what_was_saved_and_is_not_found_was_evicted() -> None:
    names = Names()
    names.add([b"1"])
    assert names.has(b"1", asked_s=5.0), "it is being saved"
    names.saved([b"1", b"2"], now_s=10.0)
    assert names.has(b"1", asked_s=9.0), "it was looked up before it was there"
    assert not names.has(b"1", asked_s=11.0), "it is gone"
    assert not names.has(b"2", asked_s=9.0)
