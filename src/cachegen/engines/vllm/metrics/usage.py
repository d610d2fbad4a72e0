"""What the store holds, on ``/metrics``: asked seldom, by a thread that nothing waits for."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

from cachegen.errors import CacheGenError
from cachegen.store import Store, shared_store
from cachegen.store.folder import FolderStore
from cachegen.store.protocol import public_name
from cachegen.store.url import folder_of
from cachegen.store.wire import Usage

# Field of `Usage`: (name, help).
METRICS = {
    "objects": ("objects", "Objects in the store"),
    "size_bytes": ("bytes", "Bytes of the objects in the store"),
    "counted_bytes": ("counted_bytes", "Bytes that they count with within the quota"),
    "quota_objects": ("quota_objects", "The most objects that there may be in the store"),
    "quota_bytes": ("quota_bytes", "The most bytes that may be counted"),
}
# Arbitrary: 10 to 600 s do; an answer of a server is one small request.
_SERVER_EVERY_S = 60.0
# Arbitrary: 60 to 3,600 s do, after a look at all files that takes as long as it takes.
_FOLDER_EVERY_S = 300.0
# Files between two rests, each of which leaves nine tenths of the time to others. Arbitrary: 50 to
# 1,000 files, and 4 to 50 times as long, do.
_FILES_AT_ONCE, _REST = 200, 9
# Of more a folder's use is not known. Arbitrary: 0.2 to 10 million do.
_MAX_FILES = 1_000_000
_SERVERS = ("cachegen://", "cachegens://")

Rest = Callable[[float], bool]


class StoreUsage:
    """Gauges ``vllm:cachegen_store_<name>`` of a folder, or of a server that counts.

    Other stores do not tell; what is not told has no value, and what is not told any more is NaN.
    They end with this object.
    """

    def __init__(self, gauge_class: Any, settings: Mapping[str, Any]) -> None:
        """Begin to ask in the background; nothing fails here."""
        url = settings.get("store")
        if not isinstance(url, str) or (every_s := _every_s(url)) is None:
            return
        gauges = {
            field: gauge_class(
                name=f"vllm:cachegen_store_{name}",
                documentation=f"{text}.",
                labelnames=["store"],
                multiprocess_mode="mostrecent",
            )
            for field, (name, text) in METRICS.items()
        }
        ending = threading.Event()
        weakref.finalize(self, ending.set)
        threading.Thread(
            target=_tell,
            args=(gauges, url, ending.wait, every_s),
            name="cachegen-usage",
            daemon=True,
        ).start()


def usage_of(store: Store, rest: Rest) -> Usage | None:
    """What a store holds; None where it does not tell, or ``rest`` says that it is over.

    Raises:
        StoreError: the store fails.
    """
    if isinstance(store, FolderStore):
        return _files_of(store, rest)
    ask: Callable[[], Usage] | None = getattr(store, "usage", None)
    return None if ask is None else ask()


def _files_of(store: FolderStore, rest: Rest) -> Usage | None:
    objects = size_bytes = 0
    with closing(store.list()) as keys:  # type: ignore[type-var]  # it is a generator
        while True:
            began_s = time.monotonic()
            some = list(itertools.islice(keys, _FILES_AT_ONCE))
            if not some:
                return Usage(objects, size_bytes)
            sizes = [size for size in store.lookup(some) if size is not None]
            objects, size_bytes = objects + len(sizes), size_bytes + sum(sizes)
            if objects > _MAX_FILES or rest(_REST * (time.monotonic() - began_s)):
                return None


def _every_s(url: str) -> float | None:
    """How long to wait between two questions; None for stores that do not answer any."""
    if url.startswith(_SERVERS):
        return _SERVER_EVERY_S
    with suppress(ValueError):
        return None if folder_of(url) is None else _FOLDER_EVERY_S
    return None


def _tell(gauges: Mapping[str, Any], url: str, rest: Rest, every_s: float) -> None:
    told: set[str] = set()
    while True:
        usage = None
        with suppress(CacheGenError, OSError):
            usage = usage_of(shared_store(url, create=False), rest)
        for field, gauge in gauges.items():
            value = None if usage is None else getattr(usage, field)
            if value is not None or field in told:
                told.add(field)
                gauge.labels(public_name(url)).set(float("nan") if value is None else value)
        if rest(every_s):
            return
