"""One engine in this process, its store behind `cachegen serve` and a link that tests slow down.

In float32, so that equal keys and values give equal texts in whatever batches they are used.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cachegen.engines.vllm.worker import loading
from cachegen.netem.proxy import ProxyLink, proxy_link
from cachegen.policy.costs import PrefillCost
from tests.engines.vllm.engine.gate import Gate
from tests.engines.vllm.engine.served import PATIENT, Served, served
from tests.engines.vllm.engine.tiny import prompt
from tests.server.conftest import Server, serving

CHUNK, BLOCK = 256, 128
OPTIONS = {"dtype": "float32", "block_size": BLOCK, "max_num_batched_tokens": 1024}
# By name, the prompts of the tests below; each has a context of its own.
LENGTH = 700
NAMES = [
    "plain",
    "longer",
    "salt",
    "zero",
    "damage",
    "stall",
    "abort",
    "killed",
    "silent",
    "logprobs",
    "whole",
]
PROMPTS = {name: prompt(LENGTH, seed) for seed, name in enumerate(NAMES, 1)}
SHARED = [prompt(560, 100 + n % 4) + prompt(60, 200 + n) for n in range(16)]


@dataclass
class Place:
    """Where contexts are: a folder, its server, the link to it."""

    folder: Path
    server: Server
    link: ProxyLink

    @property
    def url(self) -> str:
        return f"cachegen://{self.link.address(int(self.server.url.rpartition(':')[2]))}"


@pytest.fixture(scope="module")
def truth(model: str) -> dict[str, list[int]]:
    """What vLLM says without a connector, prompt by prompt."""
    with served(model, **OPTIONS) as engine:
        found = {name: engine([tokens])[0] for name, tokens in PROMPTS.items()}
        found |= {f"shared {n}": engine([tokens])[0] for n, tokens in enumerate(SHARED)}
        found["whole"] = engine([PROMPTS["whole"][:512]])[0]
        found["tail"] = engine([PROMPTS["longer"] + prompt(300, 50)])[0]
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("contexts")
    with serving("--store", folder) as server, proxy_link(None, reason="a test") as link:
        yield Place(folder, server, link)


@pytest.fixture(scope="module")
def engine(model: str, truth, place: Place) -> Iterator[Served]:
    extra = {"store": place.url, "level": "raw", "chunk_tokens": CHUNK, "stall_s": 0.5, **PATIENT}
    with served(model, extra, **OPTIONS) as engine:
        yield engine


@pytest.fixture
def fresh(engine: Served) -> Served:
    """The engine with nothing in its own cache, nothing counted, and no bad link remembered."""
    engine.settle()
    engine.scheduler.connector._scheduling._admission.went_well("")
    engine.forget()
    engine.counts()
    return engine


def save(engine: Served, name: str, **options) -> None:
    """Compute a prompt, and let it be saved and forgotten."""
    engine([PROMPTS[name]], **options)
    engine.settle()
    engine.forget()
    engine.counts()


def test_a_prompt_is_saved_and_loaded(fresh: Served, truth) -> None:
    (cold,) = fresh.run([PROMPTS["plain"]])
    fresh.settle()
    assert cold.outputs[0].token_ids == truth["plain"] and not cold.num_cached_tokens
    counts = fresh.counts()
    assert (counts["tokens_saved"], counts["misses:absent"]) == (512, 1)
    fresh.forget()
    (warm,) = fresh.run([PROMPTS["plain"]])
    assert warm.outputs[0].token_ids == truth["plain"] and warm.num_cached_tokens == 512
    counts = fresh.counts()
    assert (counts["hits"], counts["tokens_loaded"], counts["chunks_loaded:raw"]) == (
        1,
        512,
        2,
    )
    assert "tokens_saved" not in counts and counts["bytes_loaded"] > 10_000


def test_a_whole_prompt_is_loaded(fresh: Served, truth) -> None:
    tokens = PROMPTS["whole"][:512]
    assert fresh([tokens]) == [truth["whole"]]
    fresh.settle()
    fresh.forget()
    fresh.counts()
    assert fresh([tokens]) == [truth["whole"]]
    assert fresh.counts()["tokens_loaded"] == 512


def test_only_what_vllm_lacks_is_loaded_and_what_is_new_saved(fresh: Served, truth) -> None:
    save(fresh, "longer")
    fresh([PROMPTS["longer"][: BLOCK + 1]], max_tokens=1)
    (out,) = fresh.run([PROMPTS["longer"] + prompt(300, 50)])
    fresh.settle()
    assert out.outputs[0].token_ids == truth["tail"]
    counts = fresh.counts()
    assert counts["tokens_loaded"] == 512 - BLOCK
    assert counts["tokens_saved"] == 256


def test_tenants_do_not_meet(fresh: Served, truth) -> None:
    save(fresh, "salt", cache_salt="one")
    for salt in ("two", None):
        assert fresh([PROMPTS["salt"]], cache_salt=salt) == [truth["salt"]]
        fresh.settle()
        fresh.forget()
        counts = fresh.counts()
        assert counts["misses:absent"] == 1 and counts["tokens_saved"] == 512
    assert fresh([PROMPTS["salt"]], cache_salt="one") == [truth["salt"]]
    assert fresh.counts()["tokens_loaded"] == 512


def test_loaded_tokens_are_used(fresh: Served, truth, monkeypatch) -> None:
    """With zeros in their place the text is another."""
    from cachegen.engines.vllm.worker.pages import Pages
    from cachegen.kvcache import KVCache

    save(fresh, "zero")
    place = Pages.place

    def zeroed(pages: Pages, part: KVCache, layers=None) -> None:
        planes = [[plane * 0 for plane in planes] for planes in (part.keys, part.values)]
        place(pages, KVCache(*map(tuple, planes), part.num_tokens, part.start), layers)

    monkeypatch.setattr(Pages, "place", zeroed)
    assert fresh([PROMPTS["zero"]]) != [truth["zero"]]
    assert fresh.counts()["tokens_loaded"] == 512


def test_a_damaged_chunk_is_computed(fresh: Served, truth, place: Place) -> None:
    before = set(place.folder.rglob("*"))
    save(fresh, "damage")
    new = [path for path in set(place.folder.rglob("*")) - before if path.is_file()]
    chunks = sorted(new, key=lambda path: path.stat().st_size)[-2:]
    for path in chunks:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.chmod(0o600)
        path.write_bytes(data)
    assert fresh([PROMPTS["damage"]]) == [truth["damage"]]
    counts = fresh.counts()
    assert counts["load_failures:BitstreamError"] >= 1 and not counts.get("tokens_loaded")
    fresh.forget()
    assert fresh([PROMPTS["damage"]]) == [truth["damage"]]
    assert fresh.counts()["misses:failed lately"] == 1


def test_a_bad_link_is_not_waited_for(fresh: Served, truth, place: Place, monkeypatch) -> None:
    monkeypatch.setattr(loading, "_UNKNOWN", PrefillCost(0.0, 0.01))
    save(fresh, "stall")
    place.link.set_rate(0.001)
    try:
        assert fresh([PROMPTS["stall"]]) == [truth["stall"]]
    finally:
        place.link.set_rate(None)
    assert not fresh.counts().get("tokens_loaded")


def test_an_abort_while_loading_frees_everything(fresh: Served, monkeypatch) -> None:
    from vllm import SamplingParams

    save(fresh, "abort")
    pool = fresh.scheduler.kv_cache_manager.block_pool
    free = pool.get_num_free_blocks()
    gate = Gate(fresh.loader._store)
    monkeypatch.setattr(fresh.loader, "_store", gate)
    try:
        engine = fresh.llm.llm_engine
        how = SamplingParams(temperature=0, max_tokens=4, detokenize=False)
        engine.add_request("a", {"prompt_token_ids": PROMPTS["abort"]}, how)
        deadline_s = time.monotonic() + 20
        while pool.get_num_free_blocks() == free:
            assert time.monotonic() < deadline_s
            engine.step()
        (internal,) = fresh.scheduler.requests
        assert fresh.scheduler.requests[internal].status.name == "WAITING_FOR_REMOTE_KVS"
        engine.abort_request([internal], internal=True)
        while pool.get_num_free_blocks() != free or fresh.scheduler.requests:
            assert time.monotonic() < deadline_s, "blocks of the aborted request stay"
            engine.step()
    finally:
        gate.go.set()
    assert not fresh.scheduler.connector._scheduling._requests


def test_sixteen_clients_with_shared_beginnings(fresh: Served, truth) -> None:
    expected = [truth[f"shared {n}"] for n in range(16)]
    assert fresh(SHARED) == expected
    fresh.settle()
    counts = fresh.counts()
    assert counts["tokens_saved"] == 4 * 512, "no chunk twice"
    fresh.forget()
    assert fresh(SHARED) == expected
    counts = fresh.counts()
    assert (counts["hits"], counts["tokens_loaded"]) == (4, 4 * 512), f"twins load once: {counts}"


def test_prompt_logprobs_are_of_computed_tokens(fresh: Served, truth) -> None:
    save(fresh, "logprobs")
    (out,) = fresh.run([PROMPTS["logprobs"]], prompt_logprobs=1)
    assert len(out.prompt_logprobs) == LENGTH and not fresh.counts().get("tokens_loaded")
    assert out.outputs[0].token_ids == truth["logprobs"]


def test_a_server_that_falls_silent_in_mid_load(
    fresh: Served, truth, place: Place, monkeypatch
) -> None:
    save(fresh, "silent")
    pid = place.server.process.pid
    stopping = Gate(fresh.loader._store, first=lambda: os.kill(pid, signal.SIGSTOP))
    monkeypatch.setattr(fresh.loader, "_store", stopping)
    try:
        assert fresh([PROMPTS["silent"]]) == [truth["silent"]]
    finally:
        os.kill(pid, signal.SIGCONT)
    counts = fresh.counts()
    assert (
        counts["hits"] == 1
        and counts["load_failures:StoreTimeout"]
        and not counts.get("tokens_loaded")
    ), counts


def test_a_server_that_dies_in_mid_load(fresh: Served, truth, place: Place, monkeypatch) -> None:
    """Last in this module: the server is gone."""
    save(fresh, "killed")

    def kill() -> None:
        place.server.process.kill()
        place.server.process.wait()

    monkeypatch.setattr(fresh.loader, "_store", Gate(fresh.loader._store, first=kill))
    assert fresh([PROMPTS["killed"]]) == [truth["killed"]]
    counts = fresh.counts()
    assert counts["hits"] == 1 and not counts.get("tokens_loaded")
    assert any(name.startswith("load_failures") for name in counts), counts
    fresh.forget()
    # And with no server at all.
    assert fresh([PROMPTS["plain"]]) == [truth["plain"]]
    assert fresh.counts()["misses:StoreError"] == 1


def test_questions_of_the_scheduler_take_microseconds(engine: Served) -> None:
    connector = engine.scheduler.connector
    side, times = connector._scheduling, []
    request = type("Request", (), {"request_id": "nobody"})()
    side.arrived("nobody", None, prompt_tokens=0, may_load=True, identity=None)
    for _ in range(1000):
        began_s = time.perf_counter()
        connector.get_num_new_matched_tokens(request, 0)
        times.append(time.perf_counter() - began_s)
    assert statistics.median(times) < 50e-6
