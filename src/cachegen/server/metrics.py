"""Counters of a server in the Prometheus format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cachegen.server.objects.index import Index

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Arbitrary: two buckets a decade, from a request on loopback to the transfer of a large object.
_DURATIONS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Metrics:
    """The counters of a server; each server has its own registry."""

    def __init__(self, index: Index) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "cachegen_requests", "Requests answered.", ["method", "status"], registry=registry
        )
        self.received_bytes = Counter(
            "cachegen_received_bytes", "Bytes of request bodies.", registry=registry
        )
        self.sent_bytes = Counter(
            "cachegen_sent_bytes", "Bytes of response bodies.", registry=registry
        )
        self.duration_s = Histogram(
            "cachegen_request_seconds",
            "From the request's head to the last byte of its answer.",
            ["method"],
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self.in_flight = Gauge("cachegen_in_flight", "Requests under way.", registry=registry)
        self.evicted = Counter("cachegen_evicted", "Objects evicted.", registry=registry)
        self.evicted_bytes = Counter("cachegen_evicted_bytes", "Bytes evicted.", registry=registry)
        stored = Gauge("cachegen_stored_bytes", "Bytes of known objects.", registry=registry)
        stored.set_function(index.stored_bytes)
        objects = Gauge("cachegen_stored_objects", "Known objects.", registry=registry)
        objects.set_function(index.stored_objects)

    def count_eviction(self, size_bytes: int) -> None:
        """Count an evicted object of this size."""
        self.evicted.inc()
        self.evicted_bytes.inc(size_bytes)

    def render(self) -> bytes:
        """All metrics as the text that Prometheus reads."""
        return generate_latest(self._registry)
