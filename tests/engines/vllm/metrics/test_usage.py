"""Gauges of the store: what is known of it, asked in the background."""

from __future__ import annotations

import gc
import math
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from cachegen.engines.vllm.metrics import usage as module
from cachegen.engines.vllm.metrics.usage import StoreUsage, usage_of
from cachegen.errors import StoreError
from cachegen.store import open_store
from cachegen.store.wire import Usage
from tests.server.conftest import serving


class Gauges:
    """Gauges of a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def __call__(self, **options: object) -> Gauge:
        return Gauge(**options, registry=self.registry)

    def values(self) -> dict[str, float]:
        return {
            sample.name.removeprefix("vllm:cachegen_store_"): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
        }

    def await_(self, name: str, wanted=lambda value: True) -> float:
        """The value of a gauge, once it is as wanted; it comes in the background."""
        due_s = time.monotonic() + 60
        while not ((value := self.values().get(name)) is not None and wanted(value)):
            assert time.monotonic() < due_s, self.values()
            time.sleep(0.01)
        return value


def never(seconds: float) -> bool:
    return False


def test_a_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for number in range(450):
        store.put(f"a/{number}", bytes(number))
    assert usage_of(store, never) == Usage(450, sum(range(450)))
    gauges = Gauges()
    kept = StoreUsage(gauges, {"store": str(tmp_path)})
    assert gauges.await_("bytes") == sum(range(450))
    assert set(gauges.values()) == {"objects", "bytes"}
    del kept


def test_a_folder_is_left_where_it_is_too_large_or_no_more_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path)
    for number in range(5):
        store.put(f"{number}", b"1")
    assert usage_of(store, lambda seconds: True) is None
    monkeypatch.setattr(module, "_MAX_FILES", 4)
    assert usage_of(store, never) is None


def test_a_server_tells_the_tenants_own(two_tenants: Path, tmp_path: Path) -> None:
    with serving("--store", tmp_path, "--tenants", two_tenants) as server:
        ours = server.client("token-b")
        ours.put("a/b", bytes(1000))
        server.client("token-a").put("c", bytes(500))
        told = Usage(1, 1000, 1000 + 3 * 4096, quota_bytes=5_000_000)
        assert usage_of(ours, never) == told
        gauges = Gauges()
        kept = StoreUsage(gauges, {"store": f"cachegen://:token-b@{server.host}"})
        assert gauges.await_("quota_bytes") == 5_000_000
        assert gauges.values()["bytes"] == 1000
        (label,) = {
            sample.labels["store"]
            for metric in gauges.registry.collect()
            for sample in metric.samples
        }
        assert label == f"cachegen://{server.host}"
        del kept


def test_a_server_that_does_not_count_has_no_metric(tmp_path: Path) -> None:
    with serving("--store", tmp_path) as server, pytest.raises(StoreError, match="are counted"):
        usage_of(server.client(), never)


def test_what_is_not_told_any_more_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FOLDER_EVERY_S", 0.01)
    open_store(tmp_path / "store").put("a", b"1")
    gauges = Gauges()
    kept = StoreUsage(gauges, {"store": str(tmp_path / "store")})
    assert gauges.await_("objects") == 1
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    assert math.isnan(gauges.await_("objects", math.isnan))
    del kept


@pytest.mark.parametrize(
    "settings",
    [{"store": "memory:"}, {"store": "redis://h"}, {"store": "s3://b"}, {"store": 1}, {}],
)
def test_stores_that_do_not_tell_have_no_metric(settings: dict[str, object]) -> None:
    def refuse(**options: object) -> None:
        raise AssertionError("expected no gauge")

    StoreUsage(refuse, settings)


def test_asking_ends_with_the_gauges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asking() -> int:
        return sum(thread.name == "cachegen-usage" for thread in threading.enumerate())

    gc.collect()
    due_s = time.monotonic() + 60
    while asking():
        assert time.monotonic() < due_s
        time.sleep(0.01)
    kept = StoreUsage(Gauges(), {"store": str(tmp_path)})
    assert asking() == 1
    del kept
    while asking():
        assert time.monotonic() < due_s
        time.sleep(0.01)
