from __future__ import annotations

import logging

from cachegen.engines.vllm import guard
from cachegen.engines.vllm.guard import guarded

LOG = logging.getLogger("tests.vllm")


class Side:
    @guarded(lambda: (0, False), logger=LOG)
    def ask(self, tokens: int) -> tuple[int, bool]:
        return 10 // tokens, True


def test_what_fails_is_told_once_a_minute_and_answered_otherwise(caplog, monkeypatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now_s[0])
    guard._told.clear()
    side = Side()
    assert side.ask(5) == (2, True)
    for _ in range(3):
        assert side.ask(0) == (0, False)
    assert len(caplog.records) == 1 and "ask failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    now_s[0] += 61.0
    assert side.ask(0) == (0, False)
    assert len(caplog.records) == 2
