"""What loads share in a process: link estimates, downloads, decoder, models, measurements.

A forked child starts with new state and the measurements on disk: what it inherits counts transfers
and queued loads of threads that it does not have.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

import torch

from cachegen.cores import available_cores
from cachegen.forks import PerProcess
from cachegen.loading.decoding import DecoderThreads
from cachegen.loading.link import Downloads
from cachegen.loading.measurements import Measurements
from cachegen.loading.model import ModelQueue
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import Store

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


@dataclass(frozen=True, slots=True, eq=False)
class LoadResources:
    """The resources of a load, all of them shared with others.

    Attributes:
        store: the store to fetch from.
        link: estimate of the link to it.
        downloads: from it, and from others.
        decoder: the threads that decode.
        model_queue: the queue for the model.
        measurements: times on this machine, read and added to.
        device: the device of the model and of the result.
        stall_s: seconds of silence after which a transfer fails.
    """

    store: Store
    link: LinkEstimate
    downloads: Downloads
    decoder: DecoderThreads
    model_queue: ModelQueue
    measurements: Measurements
    device: torch.device | str
    stall_s: float

    def remember(self) -> None:
        """Keep the measurements of a load for the next one.

        They are saved to disk every few seconds. Costs are fitted here, after a load, so that the
        next one need not wait for it.
        """
        known, url = self.measurements, self.store.url
        link = self.link.known(time.perf_counter())
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


def load_resources(
    store: Store, fingerprint: bytes, *, device: torch.device | str, stall_s: float
) -> LoadResources:
    """The resources to load from a store for a model on a device."""
    measurements = measurements_of(fingerprint, str(device))
    return LoadResources(
        store,
        link_to(store.url, measurements),
        _SHARED().downloads,
        decoder(),
        model_queue_of(fingerprint, str(device)),
        measurements,
        device,
        stall_s,
    )


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


def model_queue_of(fingerprint: bytes, device: str) -> ModelQueue:
    """The queue for a model on a device."""
    shared = _SHARED()
    with shared.making:
        return shared.model_queues.setdefault((fingerprint, device), ModelQueue())


def decoder() -> DecoderThreads:
    """The decoder threads."""
    return _SHARED().decoder
