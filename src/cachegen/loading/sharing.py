"""State shared by the loads of a process: link estimates, downloads, decoder, models, costs.

A forked child starts with new state and the measurements on disk: what it inherits counts transfers
and queued loads of threads that it does not have.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

from cachegen.cores import available_cores
from cachegen.forks import PerProcess
from cachegen.loading.decoder_threads import DecoderThreads
from cachegen.loading.downloads import Downloads
from cachegen.loading.measurements import Measurements
from cachegen.loading.model_queue import ModelQueue
from cachegen.policy.link_estimate import LinkEstimate

# What a crash may lose, against a write of a few kB. Arbitrary: 1 to 60 s does.
_SAVE_EVERY_S = 10.0
_Model = tuple[bytes, str]


def _decoder() -> DecoderThreads:
    return DecoderThreads(max(available_cores() // 2, 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """All shared state; `making` is held while a part of it is created."""

    making: threading.Lock = field(default_factory=threading.Lock)
    measurements: dict[_Model, Measurements] = field(default_factory=dict)
    model_queues: dict[_Model, ModelQueue] = field(default_factory=dict)
    links: dict[str, LinkEstimate] = field(default_factory=dict)
    saved_s: dict[int, float] = field(default_factory=dict)
    downloads: Downloads = field(default_factory=Downloads)
    decoder: DecoderThreads = field(default_factory=_decoder)


_SHARED = PerProcess(_Shared)


def measurements_of(fingerprint: bytes, device: str) -> Measurements:
    """The measurements of a model on a device."""
    shared, model = _SHARED(), (fingerprint, device)
    with shared.making:
        if model not in shared.measurements:
            shared.measurements[model] = Measurements.read(fingerprint, device)
        return shared.measurements[model]


def link_to(url: str, known: Measurements) -> LinkEstimate:
    """The estimate of the link to the store at a URL."""
    shared = _SHARED()
    with shared.making:
        if url not in shared.links:
            shared.links[url] = LinkEstimate(known.throughput(url))
        return shared.links[url]


def remember(known: Measurements, url: str) -> None:
    """Keep a load's measurements for the next one, and save them to disk every few seconds.

    Costs are fitted here, after a load, so that the next one need not wait for it.
    """
    link = link_to(url, known).known(time.perf_counter())
    if link is not None:
        known.add_link(url, *link)
    known.costs(url)
    shared = _SHARED()
    with shared.making:
        last_s = shared.saved_s.get(id(known), -math.inf)
        if time.monotonic() - last_s < _SAVE_EVERY_S:
            return
        shared.saved_s[id(known)] = time.monotonic()
    known.save()


def model_queue_of(fingerprint: bytes, device: str) -> ModelQueue:
    """The queue for a model on a device."""
    shared = _SHARED()
    with shared.making:
        return shared.model_queues.setdefault((fingerprint, device), ModelQueue())


def decoder() -> DecoderThreads:
    """The decoder threads."""
    return _SHARED().decoder


def downloads() -> Downloads:
    """The downloads."""
    return _SHARED().downloads
