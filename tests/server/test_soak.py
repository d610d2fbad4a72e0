"""The soak of the server: a short run finds nothing; what it measures with measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak_world.disk import empty_folders, in_index, on_disk, total
from benchmarks.soak_world.objects import content_of, key_of
from benchmarks.soak_world.watch import MOST, Sample, flaws, sample, trend
from cachegen.server.objects.index import Index

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow  # a server and four processes of clients: half a minute beside their start
def test_half_a_minute() -> None:
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--minutes", "0.5", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ran.stdout, ran.stderr[-3000:]
    summary = json.loads(ran.stdout)
    assert summary["wrong"] == []
    assert ran.returncode == 0
    assert sum(summary["ends"].values()) >= 1
    assert summary["counts"]["account: objects"] > 10


def _samples(*, rises_mb: float) -> list[Sample]:
    return [Sample(at_s, 60 + at_s * rises_mb / 600, 20, 5) for at_s in range(600)]


def test_what_grows_is_seen() -> None:
    flat = trend(_samples(rises_mb=6), "rss_mb")
    assert flat["an_hour"] == pytest.approx(36, abs=0.1)
    assert flaws({"rss_mb": flat}) == []
    grown = trend(_samples(rises_mb=60), "rss_mb")
    assert "rss_mb grew" in flaws({"rss_mb": grown})[0]
    assert flaws({"rss_mb": flat | {"most": MOST["rss_mb"] + 1}})


@pytest.mark.parametrize("count", range(5))
def test_what_is_watched_too_shortly_is_not_judged(count: int) -> None:
    """The process may have begun a moment before the end."""
    assert flaws({"rss_mb": trend(_samples(rises_mb=6)[:count], "rss_mb")}) == []


def test_the_most_is_judged_from_the_first_moment_on() -> None:
    large = [Sample(0.0, MOST["rss_mb"] + 1, 20, 5)]
    assert flaws({"rss_mb": trend(large, "rss_mb")})


def test_a_process_is_looked_at() -> None:
    found = sample(os.getpid(), 1.0)
    assert found.rss_mb > 10
    assert found.files > 2
    assert found.threads > 0


def test_the_disk_and_the_index(tmp_path: Path) -> None:
    store, index_path = tmp_path / "store", tmp_path / "index"
    for key, size_bytes in (("t-a/raw/1", 10), ("t-a/raw/2", 5), ("t-b/x", 1)):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(bytes(size_bytes))
    (store / "t-b" / "empty").mkdir()
    index = Index(index_path, namespaces=frozenset({"t-a", "t-b"}))
    for key, size_bytes in (("t-a/raw/1", 10), ("t-a/raw/2", 5), ("t-b/x", 1)):
        index.add(key, size_bytes)
    index.close()
    assert on_disk(store) == in_index(index_path) == {"t-a": (2, 15), "t-b": (1, 1)}
    assert total(on_disk(store)) == (3, 16)
    assert empty_folders(store) == ["t-b/empty"]


def test_keys_tell_bytes() -> None:
    key = key_of(3, 7, 1000)
    assert len(content_of("a", key)) == 1000
    assert content_of("a", key) != content_of("b", key)
