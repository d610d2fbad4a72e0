from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachegen.loading.resources import decoder
from cachegen.policy.controller import MAX_UNDECODED
from cachegen.store import open_store

TOKENS = list(range(300))


def levels_of(result) -> list[str | None]:
    return [chunk.level for chunk in result.chunks]


def ranges_of(result) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.stop) for chunk in result.chunks]


@pytest.fixture(scope="module")
def full(toy):
    """A context at every level of the profile, and lossless."""
    store = open_store("memory:")
    toy.save(TOKENS, store, profile=toy.profile)
    return store


@pytest.mark.parametrize("level", ["low", "medium", "high", "highest", "lossless"])
@pytest.mark.parametrize("given", [True, False])
def test_a_level_is_loaded_with_a_profile_from_anywhere(toy, full, level: str, given: bool) -> None:
    result = toy.load(TOKENS, full, level=level, profile=toy.profile if given else None)
    assert levels_of(result) == [level] * 3
    assert ranges_of(result) == [(0, 128), (128, 256), (256, 300)]
    assert not any(chunk.reason for chunk in result.chunks)
    toy.check(result, TOKENS, exact=level == "lossless")


def test_better_levels_are_nearer_to_the_truth(toy, full) -> None:
    truth = toy.kv(TOKENS)
    errors = []
    for level in ("low", "medium", "high", "highest", "lossless"):
        kv = toy.load(TOKENS, full, level=level).kv
        errors.append((kv.keys[0].float() - truth.keys[0].float()).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0 < errors[-2]


def test_the_default_level_is_the_profile_s(toy, full) -> None:
    assert levels_of(toy.load(TOKENS, full)) == ["medium"] * 3


def test_the_default_level_without_a_profile(toy) -> None:
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["low", "high", "packed"])
    assert levels_of(toy.load(TOKENS, store)) == ["high"] * 3


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        (["low", "highest", "raw"], "medium", "highest"),
        (["low", "packed", "raw"], "medium", "packed"),
        (["low", "medium"], "highest", "medium"),
        (["lossless", "low"], "packed", "lossless"),
        (["lossless", "high"], "raw", "lossless"),
    ],
)
def test_a_chunk_without_the_level_comes_at_the_next_one(toy, stored, asked, loaded) -> None:
    store, start = open_store("memory:"), 128
    toy.save(TOKENS[:start], store, levels=[asked, *stored])
    toy.save(TOKENS, store, levels=stored, kv=toy.kv(TOKENS).slice(start, 300))
    result = toy.load(TOKENS, store, level=asked)
    assert levels_of(result) == [asked, loaded, loaded]
    assert not any(chunk.reason for chunk in result.chunks)
    assert all(asked in timed.decision.reason for timed in result.decisions)
    toy.check(result, TOKENS, exact=False)


def test_a_default_level_that_is_stored_nowhere_gives_way(toy) -> None:
    store = open_store("memory:")
    toy.save(TOKENS, store, levels=["lossless"])
    assert levels_of(toy.load(TOKENS, store, profile=toy.profile)) == ["lossless"] * 3
    assert levels_of(toy.load(TOKENS, store)) == ["lossless"] * 3


@pytest.mark.parametrize("level", ["raw", "text", "sharp"])
def test_an_absent_level_is_refused(toy, full, level: str) -> None:
    with pytest.raises(ValueError, match=f"low, medium, high, highest, lossless; got '{level}'"):
        toy.load(TOKENS, full, level=level)


def test_nothing_stored(toy) -> None:
    result = toy.load(TOKENS, open_store("memory:"), level="high", profile=toy.profile)
    assert (result.kv, result.num_tokens, result.chunks) == (None, 0, ())
    with pytest.raises(ValueError, match="at least one token"):
        toy.load([], open_store("memory:"))


@pytest.mark.parametrize("num_tokens", [63, 64, 127, 128, 191, 255, 256, 299])
def test_less_of_a_context_is_found_by_its_boundaries(toy, full, num_tokens: int) -> None:
    result = toy.load(TOKENS[:num_tokens], full, level="lossless")
    assert result.num_tokens == (num_tokens // 128) * 128
    toy.check(result, TOKENS, exact=True)


def test_a_partial_chunk_is_cut(toy, full) -> None:
    store, tokens = open_store("memory:"), TOKENS[:200]
    toy.save(tokens, store)
    result = toy.load([*TOKENS[:192], 9, 9, 9], store, level="lossless")
    assert ranges_of(result) == [(0, 128), (128, 192)]
    toy.check(result, tokens, exact=True)


def test_where_time_and_bytes_go(toy, full) -> None:
    result = toy.load(TOKENS, full, level="high")
    assert result.size_bytes == sum(chunk.size_bytes for chunk in result.chunks) > 0
    parts = (result.lookup_s, result.fetch_s, result.decode_s)
    assert all(0 < part < result.ttft_s for part in parts)
    assert result.recompute_s == 0
    assert result.overlap_s >= sum(parts) - result.ttft_s
    assert [span.work for span in result.spans].count("fetch") == 3
    assert all(0 <= span.began_s <= span.ended_s <= result.ttft_s for span in result.spans)
    assert [timed.decision.level for timed in result.decisions] == ["high"] * 3


def test_the_next_chunk_is_fetched_while_one_is_worked_on(toy, intercept) -> None:
    memory, fetched = open_store("memory:"), threading.Event()
    manifest = toy.save(TOKENS, memory, levels=["raw"])
    first, second, _ = (chunk.objects[0].key for chunk in manifest.chunks)
    memory.delete(first)
    store = intercept(memory, before_get=lambda key: fetched.set() if key == second else None)
    truth = toy.recompute(TOKENS)

    def recompute(tokens, *, past):
        assert fetched.wait(10), "nobody fetches the second chunk while the first is recomputed"
        return truth(tokens, past=past)

    result = toy.load(TOKENS, store, recompute=recompute)
    assert levels_of(result) == ["text", "raw", "raw"]
    toy.check(result, TOKENS, exact=True)


def test_only_a_few_chunks_are_fetched_before_they_are_decoded(toy, intercept) -> None:
    memory, tokens, asked = open_store("memory:"), list(range(1280)), []
    manifest = toy.save(tokens, memory, levels=["raw"])
    keys = [chunk.objects[0].key for chunk in manifest.chunks]
    hold = threading.Event()
    for _ in range(16):
        decoder().submit(lambda: hold.wait(20) or None)
    store = intercept(memory, before_get=lambda key: asked.append(key) if key in keys else None)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(toy.load, tokens, store)
        deadline_s = time.monotonic() + 10
        while len(asked) < MAX_UNDECODED and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(0.1)
        assert asked == keys[:MAX_UNDECODED]
        hold.set()
        result = loading.result(30)
    assert asked == keys
    toy.check(result, tokens, exact=True)


def test_the_fetching_thread_ends_with_the_load(toy, full) -> None:
    toy.load(TOKENS, full)
    deadline_s = time.monotonic() + 5
    while any(thread.name.startswith("cachegen-fetch") for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_loads_run_side_by_side(toy, full) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: toy.load(TOKENS, full, level="lossless"), range(12)))
    for result in results:
        assert result.num_tokens == 300
        toy.check(result, TOKENS, exact=True)


@pytest.mark.parametrize("slo_s", [-1.0, float("nan")])
def test_a_deadline_that_is_none_is_refused(toy, full, slo_s: float) -> None:
    with pytest.raises(ValueError, match="slo_s as seconds from now"):
        toy.load(TOKENS, full, slo_s=slo_s)
