"""Counters on vLLM's ``/metrics``, and the line that vLLM logs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from cachegen.engines.vllm.metrics.counters import Counts, add_up, labelled
from cachegen.engines.vllm.metrics.usage import StoreUsage

# Name: (help, label). Names in seconds and bytes say so; what has no label is a plain sum.
METRICS: dict[str, tuple[str, str]] = {
    "hits": ("Requests that loaded tokens", ""),
    "trials": ("Of these, begun though computing seemed sooner", ""),
    "misses": ("Requests that loaded nothing, by reason", "reason"),
    "tokens_hit": ("Tokens asked for from the store", ""),
    "tokens_loaded": ("Tokens loaded into blocks", ""),
    "bytes_loaded": ("Bytes received of chunks", ""),
    "chunks_loaded": ("Chunks loaded, by level", "level"),
    "loads": ("Loads that ended", ""),
    "load_failures": ("Loads and chunks that failed or were given up, by kind", "kind"),
    "load_seconds": ("Seconds of loads, from the step that began them", ""),
    "lookup_seconds": ("Of these, seconds of reading manifests", ""),
    "fetch_seconds": ("Of these, seconds with a transfer under way", ""),
    "decode_seconds": ("Of these, seconds of decoding", ""),
    "prefill_seconds_saved": ("Seconds that computing the loaded tokens would have taken", ""),
    "saves": ("Saves that ended", ""),
    "tokens_saved": ("Tokens saved", ""),
    "kv_bytes_saved": ("Bytes of keys and values saved, before encoding", ""),
    "bytes_saved": ("Bytes that they take in the store, all levels", ""),
    "save_seconds": ("Seconds of encoding and storing, in the background", ""),
    "save_failures": ("Saves that failed, by kind", "kind"),
    "saves_shed": ("Saves left out, by reason", "reason"),
    "tokens_shed": ("Tokens left out", ""),
}


@dataclass
class ConnectorStats(KVConnectorStats):  # type: ignore[misc]
    """Sums since the last step: ``data`` is what `Counters.take` gives."""

    def reset(self) -> None:
        """Start again from nothing."""
        self.data: Counts = {}

    def aggregate(self, other: KVConnectorStats) -> ConnectorStats:
        """Add those of another worker, or of the scheduler."""
        self.data = add_up(self.data, other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        """What vLLM logs every few seconds."""
        return summary(self.data)

    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self.data


def summary(counts: Counts) -> dict[str, int | float]:
    """The sums that say whether it pays."""

    def total(name: str) -> float:
        return counts.get(name, 0) + sum(labelled(counts, name).values())

    kept = ("hits", "misses", "tokens_loaded", "load_failures", "tokens_saved", "saves_shed")
    found: dict[str, int | float] = {name: round(total(name)) for name in kept}
    found["load_s"] = round(total("load_seconds"), 3)
    found["prefill_saved_s"] = round(total("prefill_seconds_saved"), 3)
    found["loaded_MB"] = round(total("bytes_loaded") / 1e6, 3)
    found["saved_MB"] = round(total("bytes_saved") / 1e6, 3)
    if total("bytes_saved"):
        found["ratio"] = round(total("kv_bytes_saved") / total("bytes_saved"), 2)
    return found


class ConnectorMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """Counters ``vllm:cachegen_<name>_total`` of every engine, and gauges of the store."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counters = {
            name: self._counter_cls(
                f"vllm:cachegen_{name}",
                f"{text}.",
                labelnames=[*self._labelnames, *([label] if label else [])],
            )
            for name, (text, label) in METRICS.items()
        }
        settings = self._kv_transfer_config.kv_connector_extra_config
        self._usage = StoreUsage(self._gauge_cls, settings)

    def observe(self, transfer_stats_data: Counts, engine_idx: int = 0) -> None:
        """Add sums."""
        values = self.per_engine_labelvalues[engine_idx]
        for key, value in transfer_stats_data.items():
            name, _, label = key.partition(":")
            counter = self._counters.get(name)
            if counter is not None:
                counter.labels(*values, *([label] if METRICS[name][1] else [])).inc(value)
