"""What loads share in a process, and the memory that one may take.

Shared are link estimates, downloads, the decoder, models, measurements.

A forked child starts with new state and the measurements on disk: what it inherits counts transfers
and queued loads of threads that it does not have.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cachegen.codec.memory import MAX_DECODING_BYTES
from cachegen.contexts.lookup import Found
from cachegen.cores import available_cores
from cachegen.errors import BitstreamError
from cachegen.forks import PerProcess
from cachegen.loading.decoding import DecoderThreads
from cachegen.loading.link import Downloads
from cachegen.loading.measurements import Measurements
from cachegen.loading.model import ModelQueue
from cachegen.policy.controller import MAX_UNDECODED, ChunkState
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
        room: what the load may take of this machine's memory.
    """

    store: Store
    link: LinkEstimate
    downloads: Downloads
    decoder: DecoderThreads
    model_queue: ModelQueue
    measurements: Measurements
    device: torch.device | str
    stall_s: float
    room: Room

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
    store: Store,
    fingerprint: bytes,
    *,
    device: torch.device | str,
    stall_s: float,
    max_bytes: int | None,
) -> LoadResources:
    """The resources to load from a store for a model on a device.

    Raises:
        ValueError: not a positive number of bytes.
    """
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
        room(max_bytes, device),
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


# Shares of `max_bytes`: what is fetched and not decoded yet, and profiles. The rest is for the
# result and for decoding. Of 12 GiB on a machine of 24 GiB, 3 GiB are 8 transfers of 384 MiB each;
# chunks of 1,536 tokens have 4 to 200 MB. Arbitrary: an eighth to a half does. Profiles are read
# before there is anything else, and reading takes 8 times their bytes (docs/guide/security.md).
_FETCHED_SHARE = 4
_PROFILES_SHARE = 8
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Room:
    """The bounds of one load.

    Attributes:
        max_bytes: of the result, of what is fetched for it and of what decoding takes, at once.
    """

    max_bytes: int

    @property
    def fetched_bytes(self) -> int:
        """Of objects under way or not decoded yet, all together."""
        return self.max_bytes // _FETCHED_SHARE

    @property
    def profiles_bytes(self) -> int:
        """Of profiles, all together."""
        return self.max_bytes // _PROFILES_SHARE

    def decoding_bytes(self, result_bytes: int) -> int:
        """What is left for decoding a chunk beside a result, and as many others as wait.

        Raises:
            BitstreamError: the result takes too much itself.
        """
        left_bytes = self.max_bytes - self.fetched_bytes - self.profiles_bytes - result_bytes
        if left_bytes <= 0:
            raise BitstreamError(
                f"expected a result that, with what is fetched for it, takes at most "
                f"max_bytes={self.max_bytes}, got one of {result_bytes} bytes; give `load` a "
                "larger max_bytes if you trust the store",
                field="geometry",
            )
        return min(left_bytes // MAX_UNDECODED, MAX_DECODING_BYTES)

    def affordable(self, found: Found) -> Found:
        """What was found, without the levels of chunks whose objects would take too much."""
        errors: list[tuple[int, str]] = []
        chunks = tuple(self._affordable(i, c, errors) for i, c in enumerate(found.chunks))
        return replace(found, chunks=chunks, errors=(*found.errors, *errors)) if errors else found

    def _affordable(
        self, index: int, chunk: ChunkState, errors: list[tuple[int, str]]
    ) -> ChunkState:
        kept = tuple(o for o in chunk.options if o.size_bytes <= self.fetched_bytes)
        for option in chunk.options:
            if option not in kept:
                errors.append(
                    (
                        index,
                        f"{option.level}: expected at most {self.fetched_bytes} bytes (of "
                        f"max_bytes={self.max_bytes}), got {option.size_bytes}; give `load` a "
                        "larger max_bytes",
                    )
                )
        return replace(chunk, options=kept)


def room(max_bytes: int | None, device: torch.device | str) -> Room:
    """The room of a load; without ``max_bytes`` half of the memory of this machine.

    For a result on another device, as much as that device has if that is more.

    Raises:
        ValueError: not a positive number of bytes.
    """
    if max_bytes is None:
        return Room(max(machine_bytes() // 2, _device_bytes(torch.device(device))))
    if max_bytes <= 0:
        raise ValueError(f"expected max_bytes as a positive number, got {max_bytes}")
    return Room(max_bytes)


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or one without a limit
        whole = min(whole, int(_CGROUP.read_text()))
    return whole


def _device_bytes(device: torch.device) -> int:
    if device.type in ("cpu", "meta"):
        return 0
    with suppress(RuntimeError, NotImplementedError):  # a device that does not tell
        return int(torch.accelerator.get_memory_info(device)[1])
    return 0
