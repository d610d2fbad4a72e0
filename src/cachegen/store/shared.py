"""The stores of a process by their URLs; the users of one share its connections.

A folder has no connections and is opened at every call.
"""

from __future__ import annotations

import os
import threading

from cachegen.forks import PerProcess
from cachegen.store.folder import FolderStore
from cachegen.store.place import check_folder
from cachegen.store.protocol import Store
from cachegen.store.url import MEMORY, folder_of, is_memory, open_store

StoreOrUrl = Store | str | os.PathLike[str]
# Arbitrary: 8 to 1,000 do; stores besides folders that a process keeps open.
_MOST = 64
_CREDENTIALS = ("CACHEGEN_TOKEN", "AWS_", "GOOGLE_", "AZURE_")
_Name = tuple[str, tuple[tuple[str, str], ...]]

_LOCK = PerProcess(threading.Lock)
_OPENED: dict[_Name, Store] = {}


def shared_store(url_or_store: StoreOrUrl, *, create: bool) -> Store:
    """The store of this process at a URL; a store is given back as it is.

    ``memory:`` stays as long as the process lives; a forked child has a copy. Of other stores the
    least recently used is dropped once there are more than 64. A folder is checked at every call.

    Raises:
        ValueError, StoreError: as `open_store`.
    """
    if not isinstance(url_or_store, str | os.PathLike):
        if not hasattr(url_or_store, "lookup"):
            got = type(url_or_store).__name__  # bytes of a URL would show its credentials
            raise TypeError(f"expected a store, a folder or the URL of one, got {got}")
        return url_or_store
    folder = None if is_memory(url_or_store) else folder_of(url_or_store)
    if folder is None:
        return _opened(url_or_store)
    check_folder(folder, create=create)
    return FolderStore(folder)


def _opened(url: str | os.PathLike[str]) -> Store:
    """The one store of this process at a URL that means no folder.

    ``memory:`` never leaves the table, not for a moment: another thread might fork then.
    """
    name = _name(url)
    with _LOCK():
        store = _OPENED.get(name) or open_store(url)
        if name[0] == MEMORY:
            return _OPENED.setdefault(name, store)
        _OPENED.pop(name, None)
        _OPENED[name] = store
        while len(_OPENED) > _MOST:
            del _OPENED[next(old for old in _OPENED if old[0] != MEMORY)]
    return store


def _name(url: str | os.PathLike[str]) -> _Name:
    """What tells stores apart: the URL, and the credentials in the environment."""
    if is_memory(url):
        return MEMORY, ()
    settings = (item for item in os.environ.items() if item[0].startswith(_CREDENTIALS))
    return os.fspath(url), tuple(sorted(settings))
