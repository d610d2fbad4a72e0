"""Whether loads pay is measured: what does not is ended, and what did not once is tried again.

Decided by what is counted, never by how long it takes: the engine's and the link's seconds are told
here, or so far apart that no busy machine turns them round.
"""

from __future__ import annotations

import time
import zlib
from typing import Any

import pytest

from cachegen.netem.proxy import proxy_link
from tests.engines.vllm.engine.served import PATIENT, Served, served
from tests.engines.vllm.engine.tiny import prompt, write_llama
from tests.server.conftest import serving

PROMPTS = [prompt(500, seed) for seed in range(1, 5)]
LOADABLE = 384
EXTRA = {"level": "raw", "chunk_tokens": 128, "max_loads": 1, **PATIENT}
OPTIONS: dict[str, Any] = {"dtype": "float32", "learns": True}


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """One of the test's own: nobody in this process has measured how fast it is."""
    folder = tmp_path_factory.mktemp("model")
    write_llama(folder, seed=zlib.crc32(request.node.name.encode()))
    return str(folder)


def save(engine: Served) -> list[list[int]]:
    """Compute the prompts, each in steps of its own, and let them be saved and forgotten."""
    texts = [engine([tokens])[0] for tokens in PROMPTS]
    engine.settle()
    engine.forget()
    assert engine.counts()["tokens_saved"] == LOADABLE * len(PROMPTS)
    return texts


def total(counts: dict[str, float], name: str) -> float:
    """The sum of a counter over its labels."""
    return sum(value for key, value in counts.items() if key.partition(":")[0] == name)


def test_what_is_sooner_computed_is_not_loaded(model: str, tmp_path) -> None:
    """Over 0.1 Mbit/s a prompt of 3 MB takes five minutes."""
    with serving("--store", tmp_path) as server, proxy_link(None, reason="a test") as link:
        url = f"cachegen://{link.address(int(server.url.rpartition(':')[2]))}"
        with served(model, {"store": url, **EXTRA}, **OPTIONS) as engine:
            texts = save(engine)
            link.set_rate(0.1)
            assert [engine([tokens])[0] for tokens in PROMPTS] == texts
            counts = engine.counts()
            ended = sum(counts.get(f"load_failures:{why}", 0) for why in ("too slow", "trial"))
            assert ended == counts["hits"] >= 1, counts
            assert counts["hits"] + total(counts, "misses") == len(PROMPTS), counts
            assert not counts.get("tokens_loaded"), counts


def test_after_slow_loads_others_are_tried(model: str, tmp_path) -> None:
    """A decoder that was measured to take hours, beside an engine that takes a minute a prompt."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    with served(model, {"store": str(tmp_path), **EXTRA}, **OPTIONS) as engine:
        texts = save(engine)
        work = get_kv_transfer_group()._work
        book = work._book
        for _ in range(32):
            book._loads.add_decode("raw", 128, 3600.0)
            book._prefills.add_prefill(512, 0, 60.0)
        work._is_stale.set()
        side, deadline_s = engine.scheduler.connector._scheduling, time.monotonic() + 300
        while side._learned.costs.decode_s("raw", 128) < 1000:
            assert time.monotonic() < deadline_s, "the scheduler is not told"
            engine([[5, 6, 7]], max_tokens=1)
        engine.counts()
        for tokens, text in zip(PROMPTS, texts, strict=True):
            assert engine([tokens]) == [text]
        counts = engine.counts()
        assert counts["hits"] == len(PROMPTS) and counts["trials"] >= 1, counts
        assert counts["tokens_loaded"] == LOADABLE * len(PROMPTS), counts
        assert not total(counts, "misses") and not total(counts, "load_failures"), counts
