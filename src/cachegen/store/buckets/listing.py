"""Listings of buckets, by obstore in a process of its own.

Vendors sign a listing in their own ways, which only obstore knows, and obstore reads an answer
whole, however long. A process can be given a most of memory, and be ended at any time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO

from cachegen import errors
from cachegen.errors import StoreError
from cachegen.store.protocol import MAX_KEY_LENGTH, interruptible, is_key
from cachegen.store.wire import LISTING_S, MAX_LISTED_KEYS

# Beside what is loaded of programs. A page of 1,000 keys takes 1 MB, two threads 20 MB. Arbitrary:
# 128 MiB to 1 GiB does.
_MEMORY_BYTES = 256 << 20
# Of what the process says when it fails. Arbitrary: 1 to 64 KiB does.
_SAID_BYTES = 4096


def keys_below(name: str, prefix: str, *, timeout_s: float) -> Iterator[str]:
    """The keys below a prefix of a bucket; closing the iterator ends the listing.

    Raises:
        StoreError: it fails, takes too much memory or time, or has too many keys.
    """
    doing = f"{name}: cannot list {prefix or 'all keys'}"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, name, prefix, repr(timeout_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    limit = threading.Timer(LISTING_S, process.kill)
    limit.daemon = True
    limit.start()
    try:
        yield from _keys(process, doing)
        if process.wait():
            raise _failure(process, doing, is_late=not limit.is_alive())
    finally:
        limit.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _keys(process: subprocess.Popen[bytes], doing: str) -> Iterator[str]:
    said: IO[bytes] | None = process.stdout
    assert said is not None
    for _ in range(MAX_LISTED_KEYS + 1):
        with interruptible(process.kill):
            line = said.readline(MAX_KEY_LENGTH + 1)
        if not line.endswith(b"\n"):
            return
        yield line[:-1].decode("ascii")
    raise StoreError(f"{doing}: {_TOO_MUCH}")


_TOO_MUCH = (
    f"expected at most {MAX_LISTED_KEYS} keys within {LISTING_S:g} s, got more; list below a prefix"
)


def _failure(process: subprocess.Popen[bytes], doing: str, *, is_late: bool) -> StoreError:
    """The error that the process names in its last words; without any it was ended."""
    assert process.stderr is not None
    kind, colon, reason = process.stderr.read(_SAID_BYTES).decode(errors="replace").partition(":")
    found = getattr(errors, kind, None)
    if colon and isinstance(found, type) and issubclass(found, StoreError):
        return found(reason.strip())
    if is_late:
        return StoreError(f"{doing}: {_TOO_MUCH}")
    return StoreError(
        f"{doing}: the process that lists ended by itself (status {process.returncode}): an answer "
        f"may take more than {_MEMORY_BYTES >> 20} MiB, or the work was given up"
    )


def main(name: str, prefix: str, timeout_s: str) -> int:
    """Print the keys below a prefix; a failure goes to standard error, by its class."""
    import resource  # not everywhere: only Linux keeps the limit

    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    from cachegen.store.buckets.backend import opened
    from cachegen.store.failures import translated

    try:
        backend = opened(name, timeout_s=float(timeout_s))
        with translated(name, f"list {prefix or 'all keys'}"):
            for batch in backend.list(prefix or None):
                keys = (entry["path"] for entry in batch if is_key(entry["path"]))
                sys.stdout.write("".join(f"{key}\n" for key in keys))
                sys.stdout.flush()
    except StoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
