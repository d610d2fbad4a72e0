from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cachegen.engines.vllm.metrics.counters import Counters, add_up, labelled
from cachegen.engines.vllm.metrics.minutely import Minutely, line


def test_counts_of_threads_add_up() -> None:
    counters = Counters()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(400):
            threads.submit(counters.add, "misses", label="late")
    counters.add("hits", 2)
    assert counters.take() == {"misses:late": 400, "hits": 2}
    assert counters.take() == {}


def test_sums_and_labels() -> None:
    sums = add_up({"hits": 1, "misses:late": 2}, {"misses:late": 1, "misses:absent": 4})
    assert sums == {"hits": 1, "misses:late": 3, "misses:absent": 4}
    assert labelled(sums, "misses") == {"late": 3, "absent": 4}


def test_a_line_says_whether_it_pays() -> None:
    counts = {
        "hits": 3,
        "misses:absent": 1,
        "tokens_loaded": 3072,
        "load_seconds": 1.5,
        "prefill_seconds_saved": 9.0,
        "bytes_loaded": 4e6,
        "tokens_saved": 256,
        "bytes_saved": 1e6,
        "saves_shed:full": 2,
        "load_failures:StoreTimeout": 1,
    }
    assert line(counts, 60.0) == (
        "60 s: 3 of 4 requests loaded; 3072 tokens in 1.5 s that would have taken 9.0 s to compute;"
        " 4.0 MB; not loaded: 1 absent; saved 256 tokens, 1.0 MB; 2 saves shed; 1 failures"
    )


def test_the_line_comes_once_a_minute(monkeypatch) -> None:
    said: list[str] = []
    now_s = [0.0]
    monkeypatch.setattr("cachegen.engines.vllm.metrics.minutely.time.monotonic", lambda: now_s[0])
    minutely = Minutely(said.append)
    minutely.add({"hits": 1})
    now_s[0] = 59.0
    minutely.add({"hits": 1})
    assert not said
    now_s[0] = 61.0
    minutely.add(None)
    assert said and said[0].startswith("61 s: 2 of 2 requests loaded")
    now_s[0] = 200.0
    minutely.add(None)
    assert len(said) == 1
