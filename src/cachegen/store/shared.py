"""The stores of a process by their URLs, so that all who use one share its connections."""

from __future__ import annotations

import os
import threading

from cachegen.forks import PerProcess
from cachegen.store.place import check_folder
from cachegen.store.protocol import Store
from cachegen.store.url import MEMORY, folder_of, is_memory, open_store

StoreOrUrl = Store | str | os.PathLike[str]
_MOST = 64
_CREDENTIALS = ("CACHEGEN_TOKEN", "AWS_", "GOOGLE_", "AZURE_")
_Name = tuple[str, tuple[tuple[str, str], ...]]

_LOCK = PerProcess(threading.Lock)
_OPENED: dict[_Name, Store] = {}


def shared_store(url_or_store: StoreOrUrl, *, create: bool) -> Store:
    """The one store of this process at a URL; a store is given back as it is.

    ``memory:`` stays for as long as the process lives, in a forked child as a copy; of others
    the least recently used is dropped once there are many. A folder is looked for at every call.

    Raises:
        ValueError, StoreError: as `open_store`.
    """
    if not isinstance(url_or_store, str | os.PathLike):
        return url_or_store
    name = _name(url_or_store, create=create)
    with _LOCK():
        store = _OPENED.get(name) or open_store(url_or_store, create=create)
        if name[0] == MEMORY:
            return _OPENED.setdefault(name, store)
        _OPENED.pop(name, None)
        _OPENED[name] = store
        while len(_OPENED) > _MOST:
            del _OPENED[next(old for old in _OPENED if old[0] != MEMORY)]
    return store


def _name(url: str | os.PathLike[str], *, create: bool) -> _Name:
    """What tells stores apart: the folder, or the URL with what it is opened with."""
    if is_memory(url):
        return MEMORY, ()
    folder = folder_of(url)
    if folder is not None:
        check_folder(folder, create=create)
        return str(folder), ()
    settings = (item for item in os.environ.items() if item[0].startswith(_CREDENTIALS))
    return os.fspath(url), tuple(sorted(settings))
