"""What simultaneous loads of one process share: links, the decoder, models, measurements."""

from __future__ import annotations

import functools
import math
import threading
import time

from cachegen.cores import available_cores
from cachegen.stream.cost_file import Measurements
from cachegen.stream.decoder_threads import DecoderThreads
from cachegen.stream.link import Link
from cachegen.stream.turns import Turns

_SAVE_EVERY_S = 10.0
_MAKING = threading.Lock()
_LINKS: dict[str, Link] = {}
_SAVED_S: dict[int, float] = {}


def measurements_of(fingerprint: bytes, device: str) -> Measurements:
    """What this process knows of a model on a device."""
    with _MAKING:
        return _measurements(fingerprint, device)


@functools.cache
def _measurements(fingerprint: bytes, device: str) -> Measurements:
    return Measurements.read(fingerprint, device)


def link_to(url: str, known: Measurements) -> Link:
    """The one link of this process to a store of this name."""
    with _MAKING:
        if url not in _LINKS:
            _LINKS[url] = Link(known.throughput(url))
        return _LINKS[url]


def remember(known: Measurements, url: str) -> None:
    """Keep what a load has taught, for the next one and, every few seconds, on disk.

    The costs are fitted here, since they are asked for when a load is in a hurry.
    """
    link = link_to(url, known).known(time.perf_counter())
    if link is not None:
        known.add_link(url, *link)
    known.costs(url)
    with _MAKING:
        last_s = _SAVED_S.get(id(known), -math.inf)
        if time.monotonic() - last_s < _SAVE_EVERY_S:
            return
        _SAVED_S[id(known)] = time.monotonic()
    known.save()


def turns_at(fingerprint: bytes, device: str) -> Turns:
    """The one of this process for a model on a device."""
    with _MAKING:
        return _turns(fingerprint, device)


@functools.cache
def _turns(fingerprint: bytes, device: str) -> Turns:
    return Turns()


def decoder() -> DecoderThreads:
    """The one of this process."""
    with _MAKING:
        return _decoder()


@functools.cache
def _decoder() -> DecoderThreads:
    return DecoderThreads(max(available_cores() // 2, 1))
