from __future__ import annotations

import os
import time

import pytest

from cachegen.engines.vllm.costs import CostBook, Prefill
from cachegen.loading.measurements import FOLDER_VARIABLE
from cachegen.store import open_store


@pytest.fixture
def book(tmp_path, monkeypatch) -> CostBook:
    """Of a model and a store of its own: what was measured of others is known to a process."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "costs"))
    return CostBook(open_store(str(tmp_path / "store")), os.urandom(32), "cpu")


def looks_slow(book: CostBook) -> float:
    """Let 32 kB come within ten seconds, which no load would take."""
    now_s = time.perf_counter()
    book._link.begin(now_s - 10.0)
    book._link.arrived(16 << 10, now_s - 9.9, first=True)
    book._link.arrived(32 << 10, now_s)
    book._link.end(now_s)
    rate = book.learned().bytes_per_s
    assert rate is not None and rate < 1e5
    return rate


def test_a_process_s_first_step_tells_nothing(book: CostBook) -> None:
    book.add_prefill(Prefill(1000, 0), 50.0)
    assert book.learned().costs.prefill is None
    for _ in range(3):
        book.add_prefill(Prefill(1000, 0), 1.0)
    assert book.learned().prefill_s(1000, 0) == pytest.approx(1.0)


def test_what_whole_loads_achieved_counts_until_one_fails(book: CostBook) -> None:
    rate = looks_slow(book)
    book.add_load(1_000_000, 0.5, is_whole=True)
    assert book.learned().bytes_per_s == 2e6
    book.add_load(10_000, 0.5, is_whole=False)
    assert book.learned().bytes_per_s == pytest.approx(rate, rel=0.1)


def test_an_unknown_link_stays_unknown(book: CostBook) -> None:
    book.add_load(1_000_000, 0.5, is_whole=True)
    assert book.learned().bytes_per_s is None
