"""What simultaneous loads of one process share: links, downloads, the decoder, models, costs.

A forked child begins anew, with what was measured before the fork as far as it is on disk: what
it inherited counts transfers and turns of threads that it does not have.
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

_SAVE_EVERY_S = 10.0
_Model = tuple[bytes, str]


def _decoder() -> DecoderThreads:
    return DecoderThreads(max(available_cores() // 2, 1))


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """All of it; the lock is held while something is made."""

    making: threading.Lock = field(default_factory=threading.Lock)
    measurements: dict[_Model, Measurements] = field(default_factory=dict)
    model_queues: dict[_Model, ModelQueue] = field(default_factory=dict)
    links: dict[str, LinkEstimate] = field(default_factory=dict)
    saved_s: dict[int, float] = field(default_factory=dict)
    downloads: Downloads = field(default_factory=Downloads)
    decoder: DecoderThreads = field(default_factory=_decoder)


_SHARED = PerProcess(_Shared)


def measurements_of(fingerprint: bytes, device: str) -> Measurements:
    """What this process knows of a model on a device."""
    shared, model = _SHARED(), (fingerprint, device)
    with shared.making:
        if model not in shared.measurements:
            shared.measurements[model] = Measurements.read(fingerprint, device)
        return shared.measurements[model]


def link_to(url: str, known: Measurements) -> LinkEstimate:
    """The one link of this process to a store of this name."""
    shared = _SHARED()
    with shared.making:
        if url not in shared.links:
            shared.links[url] = LinkEstimate(known.throughput(url))
        return shared.links[url]


def remember(known: Measurements, url: str) -> None:
    """Keep what a load has taught, for the next one and, every few seconds, on disk.

    The costs are fitted here, since they are asked for when a load is in a hurry.
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
    """The one of this process for a model on a device."""
    shared = _SHARED()
    with shared.making:
        return shared.model_queues.setdefault((fingerprint, device), ModelQueue())


def decoder() -> DecoderThreads:
    """The one of this process."""
    return _SHARED().decoder


def downloads() -> Downloads:
    """Those of this process."""
    return _SHARED().downloads
