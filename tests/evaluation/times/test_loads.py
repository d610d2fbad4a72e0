"""Loads over a real link: every way is there, and what came over it is counted."""

import itertools
import time
from dataclasses import replace

import pytest

from cachegen import read_profile, refmodel
from cachegen.evaluation.times import loads
from cachegen.evaluation.times.loads import Loads, timed_loads


@pytest.fixture(scope="module")
def timed(models):
    ids = models.tokenizer(refmodel.load_text("heldout-craik"), verbose=False).input_ids[:1100]
    profile = read_profile(refmodel.profile_path())
    wanted = Loads(lengths=(1024, 4096), mbit_s=(50, 400), concurrency=(1, 2), runs=2)
    stamps = []

    def load(*args, **options):
        began_s = time.monotonic()
        result = real(*args, **options)
        stamps.append((result.size_bytes, time.monotonic() - began_s))
        return result

    real = loads.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loads, "load", load)
        found = timed_loads(models, profile, ids, wanted, lambda line: None)
    return *found, stamps


@pytest.fixture(scope="module")
def rows(timed):
    return timed[0]


def test_times_are_those_of_a_client(timed):
    """Those of the loads of so many bytes by another clock, and no shorter than the link is."""
    rows, _, stamps = timed
    alone = [row for row in rows if row.concurrency == 1 and row.method in ("8-bit", "cachegen")]
    fixed = [row for row in alone if row.level != "adaptive"]
    assert fixed
    for row in fixed:
        seen = [seconds for size, seconds in stamps if size == row.bytes]
        assert row.ttft_s_p50 <= max(seen)
        assert row.ttft_s_p95 >= 0.5 * min(seen)
        assert row.ttft_s_p50 >= 0.8 * 8 * row.bytes / (1e6 * row.mbit_s)


def test_a_link_that_gets_slower_is_seen(timed):
    """Every chunk is there once, and the rates are the two of the link."""
    moments = timed[1]
    assert {one.chunk for one in moments} == {0, 1}
    assert {one.mbit_s for one in moments} <= {50, 5} and moments[0].mbit_s == 50
    assert all(one.t_s >= 0 and one.choice for one in moments)


def test_every_way_is_timed_at_every_rate(rows):
    alone = [row for row in rows if row.concurrency == 1]
    ways = [
        ("text", ""),
        ("raw", ""),
        ("8-bit", ""),
        ("cachegen", "high"),
        ("cachegen", "adaptive"),
    ]
    assert {(row.mbit_s, row.method, row.level) for row in alone} <= {
        (rate, *way) for rate, way in itertools.product((50, 400), ways)
    }
    for rate, way in itertools.product((50, 400), (ways[0], *ways[3:])):
        assert (rate, *way) in {(row.mbit_s, row.method, row.level) for row in alone}
    assert {row.context_tokens for row in rows} == {1024}
    together = [row for row in rows if row.concurrency == 2]
    assert [(row.mbit_s, row.method, row.n) for row in together] == [
        (50, "text", 2), (50, "cachegen", 2), (50, "cachegen", 2)
    ]  # fmt: skip


def test_bytes_are_those_of_the_way(rows):
    values = 1024 * 768
    by_way = {(row.method, row.level): row for row in rows if row.concurrency == 1}
    assert by_way["text", ""].bytes == 0 and by_way["text", ""].fetch_s == 0
    if ("raw", "") in by_way:
        assert by_way["raw", ""].bytes == pytest.approx(2 * values, rel=0.01)
    default = by_way["cachegen", "high"]
    assert 0 < default.bytes < 0.1 * values
    assert default.fetch_s > 0 and default.decode_s > 0 and default.recompute_s == 0
    for row in rows:
        assert 0 < row.ttft_s_p50 <= row.ttft_s_p95


def test_tenants_share_nothing(rows):
    """Of two loads at once each has its own transfer."""
    one, two = (
        next(
            row
            for row in rows
            if (row.method, row.level, row.concurrency, row.mbit_s)
            == ("cachegen", "high", number, 50)
        )
        for number in (1, 2)
    )
    assert two.bytes == pytest.approx(one.bytes, rel=0.05)


def test_nothing_is_timed_where_raw_is_not_the_cache(models, monkeypatch):
    from cachegen.errors import CacheGenError

    calls = itertools.count()

    def changing(tokens, **options):
        kv = models.prefill(tokens, **options)
        if next(calls) == 0:
            kv.keys[0][0, 0, 0] += 1
            for plane in kv.planes():
                plane.neg_()
        return kv

    stored = loads.store_context

    def store_context(kv, **options):
        return stored(models.prefill(options["tokens"]), **options)

    monkeypatch.setattr(loads, "store_context", store_context)
    wanted = Loads(lengths=(256,), mbit_s=(50,), concurrency=(1,), runs=1)
    wrong = replace(models, prefill=changing)
    with pytest.raises(CacheGenError, match="another cache than the model; nothing is timed"):
        timed_loads(wrong, None, list(range(5, 261)), wanted, lambda line: None)
