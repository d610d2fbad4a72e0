"""Starts processes that write into a directory and are made to be killed.

Reads commands, one a line. ``write SEED DIRECTORY`` starts a process that puts object after object
and prints its pid, then ``dead`` once it was killed. ``race KEY DIRECTORY`` lets four processes put
the same key at the same moment and prints how many of them created it.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time

from cachegen.store import open_store


def make_contents() -> list[bytes]:
    """What writers put, one after the other: 1 byte to 2 MiB."""
    source = random.Random(7)
    return [source.randbytes(source.randrange(1, 2 << 20)) for _ in range(12)]


def write_until_killed(directory: str, seed: int, contents: list[tuple[str, bytes]]) -> None:
    store = open_store(directory)
    for number, (digest, data) in enumerate(contents):
        store.put(f"{seed}/{number}/{digest}", data)
    signal.pause()


def race(directory: str, key: str) -> int:
    """How many of four processes were told that they created the key."""
    start_s, children = time.time() + 0.02, []
    for number in range(4):
        child = os.fork()
        if not child:
            store = open_store(directory)
            time.sleep(max(0.0, start_s - time.time()))
            os._exit(store.put(key, bytes([number]) * 300_000))
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def main() -> None:
    contents = [(hashlib.sha256(data).hexdigest(), data) for data in make_contents()]
    for line in sys.stdin:
        command, argument, directory = line.rstrip("\n").split(" ", 2)
        if command == "race":
            print(race(directory, argument), flush=True)
            continue
        child = os.fork()
        if not child:
            write_until_killed(directory, int(argument), contents)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main()
