"""Fetches several objects as one transfer, which fails with the first of them that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from cachegen.bitstream.manifest import StoredObject
from cachegen.loading.downloads import Arrived, Downloads, Failed, Fetched, Leave, News
from cachegen.policy.link_estimate import LinkEstimate
from cachegen.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """The bytes of all objects, each as the manifest describes it, in the order requested."""

    data: tuple[memoryview, ...]


BundleNews = Arrived | Whole | Failed


def fetch_together(
    downloads: Downloads,
    store: Store,
    objects: Sequence[StoredObject],
    *,
    link: LinkEstimate,
    listener: Callable[[BundleNews], None],
) -> Leave:
    """Fetch objects, and report to ``listener`` until the returned function is called.

    See `Downloads.start`.
    """
    bundle = _Bundle(len(objects), listener)
    leaves = [
        downloads.start(store, stored, link=link, listener=partial(bundle.hear, number))
        for number, stored in enumerate(objects)
    ]

    def leave(hangs: bool) -> None:
        for leave_one in leaves:
            leave_one(hangs)

    return leave


class _Bundle:
    def __init__(self, num_objects: int, listener: Callable[[BundleNews], None]) -> None:
        self._listener, self._lock = listener, threading.Lock()
        self._num_bytes = [0] * num_objects
        self._data: dict[int, memoryview] = {}

    def hear(self, number: int, news: News) -> None:
        """Pass on an event of one object."""
        with self._lock:
            if isinstance(news, Arrived):
                self._num_bytes[number] = news.num_bytes
                self._listener(Arrived(sum(self._num_bytes)))
            elif isinstance(news, Fetched):
                self._data[number] = news.data
                if len(self._data) == len(self._num_bytes):
                    self._listener(Whole(tuple(data for _, data in sorted(self._data.items()))))
            else:
                self._listener(news)
