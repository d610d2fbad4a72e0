"""Lists the contexts of a store, from its manifests: bounded in bytes, names and seconds."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

from cachegen.bitstream.manifest import MAX_SIZE_BYTES, manifest_key
from cachegen.contexts.objects import (
    checked_manifest,
    closing_of,
    describe_failure,
    taken_at_most,
)
from cachegen.contexts.stored import Found, Listing, stored_context
from cachegen.errors import BitstreamError, KeyNotFound, StoreDenied, StoreError
from cachegen.store import Store
from cachegen.store.protocol import Hangup

# Manifests at once hide the round trips of a distant store, and each takes up to 16 MiB twice.
# Arbitrary: 4 to 16 do.
_THREADS = 8
# Of all manifests that are read. What is kept of them takes as much at most. It is some 2,500
# contexts of 32,768 tokens in chunks of 256. Arbitrary: 128 MiB to 4 GiB does.
MAX_BYTES = 512 << 20
# What each counts with at least, as small ones are requests too: 131,072 of them may be read.
_LEAST_BYTES = 4096
# Names of manifests, of 200 bytes in memory each. Arbitrary: 0.2 to 10 million do.
_MAX_NAMES = 1_000_000
# As for a listing of keys. Arbitrary: 60 to 3,600 s do.
MAX_S = 600.0
# A store that fails so often in a row has failed. Arbitrary: 5 to 100 do.
_MAX_FAILURES = 20
# Arbitrary: 100 to 10,000 do.
_NAMES_A_REPORT = 1000
_ID = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class _Name:
    """Where a manifest is."""

    root: str
    context_id: bytes

    @property
    def key(self) -> str:
        key = manifest_key(self.context_id)
        return f"{self.root}/{key}" if self.root else key


def list_contexts(
    store: Store,
    *,
    roots: Sequence[str] = ("",),
    max_bytes: int = MAX_BYTES,
    max_s: float = MAX_S,
    progress: Progress = lambda doing, done, total: None,
) -> Listing:
    """The contexts of a store that begin no other one of it.

    Args:
        store: one that lists its keys.
        roots: folders of it, each as a store of its own.
        max_bytes: of manifests, after which it ends with what was found.
        max_s: the same of time.
        progress: called with what is done, and how many manifests of how many.

    Raises:
        StoreError: the store cannot be listed, or fails again and again.
    """
    due_s, found = time.monotonic() + max_s, Found()
    names = _names(store, roots, found, due_s=due_s, progress=progress)
    # Where names come in the order of growth, every beginning would be read before the whole.
    random.Random(0).shuffle(names)
    left_bytes, failures = max_bytes, 0
    with closing(_read_all(store, names, found, due_s=due_s)) as reads:
        for done, (name, answer) in enumerate(reads):
            progress("read manifests", done, len(names))
            if left_bytes <= 0:
                found.left_out = f"manifests take more than {max_bytes / 1e6:,.0f} MB"
                break
            left_bytes -= _LEAST_BYTES
            try:
                data, modified_s = answer.result()
                left_bytes -= max(len(data) - _LEAST_BYTES, 0)
                failures = 0
                manifest = checked_manifest(data, name.context_id)
                found.add(stored_context(manifest, root=name.root, modified_s=modified_s))
            except KeyNotFound:  # it was removed meanwhile
                continue
            except (BitstreamError, StoreError) as error:
                failures += isinstance(error, StoreError)
                if isinstance(error, StoreDenied) or failures >= _MAX_FAILURES:
                    raise
                found.fail(name.key, describe_failure(error))
    return found.listing()


def _names(
    store: Store, roots: Sequence[str], found: Found, *, due_s: float, progress: Progress
) -> list[_Name]:
    names: list[_Name] = []
    for name in _listed(store, roots):
        if len(names) == _MAX_NAMES or time.monotonic() > due_s:
            found.left_out = f"the store has more than {len(names):,} manifests"
            break
        names.append(name)
        if len(names) % _NAMES_A_REPORT == 0:
            progress("list manifests", len(names), None)
    return names


def _listed(store: Store, roots: Sequence[str]) -> Iterator[_Name]:
    for root in roots:
        begin = f"{root}/contexts" if root else "contexts"
        with closing_of(store.list(begin)) as keys:
            for key in keys:
                name = key.removeprefix(f"{begin}/")
                if _ID.fullmatch(name):
                    yield _Name(root, bytes.fromhex(name))


_Answer = Future[tuple[bytes, float | None]]


def _read_all(
    store: Store, names: Sequence[_Name], found: Found, *, due_s: float
) -> Generator[tuple[_Name, _Answer], None, None]:
    """Manifests as they come, without those that meanwhile turned out to begin others."""
    hangup = Hangup()

    def read(name: _Name) -> tuple[bytes, float | None]:
        with hangup.heeded():
            return _read(store, name.key)

    waiting: dict[_Answer, _Name] = {}
    wanted = (name for name in names if not found.begins_another(name.root, name.context_id))
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            while True:
                while len(waiting) < _THREADS and (name := next(wanted, None)) is not None:
                    waiting[pool.submit(read, name)] = name
                if not waiting:
                    return
                left_s = due_s - time.monotonic()
                done = wait(waiting, max(left_s, 0), return_when=FIRST_COMPLETED).done
                if not done or left_s <= 0:
                    found.left_out = "the store is slow: not all manifests were read in time"
                    return
                for answer in done:
                    yield waiting.pop(answer), answer
        finally:
            hangup.end()


def _read(store: Store, key: str) -> tuple[bytes, float | None]:
    """A manifest's bytes, and when they were written."""
    with closing_of(store.get(key)) as pieces:
        modified_s: float | None = getattr(pieces, "modified_s", None)
        return taken_at_most(pieces, key, MAX_SIZE_BYTES), modified_s
