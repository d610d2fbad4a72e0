"""Processes that write into a directory, made to be killed: ``writer.py DIRECTORY``.

Reads commands, one a line. ``write SEED`` starts a process that puts object after object and
prints its pid, then ``dead`` once it was killed. ``race KEY`` lets four processes put the same
key at the same moment and prints how many of them created it.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from itertools import count

from cachegen.store import open_store


def make_contents() -> list[bytes]:
    """What writers put, one after the other: 1 byte to 6 MiB."""
    source = random.Random(7)
    return [source.randbytes(source.randrange(1, 6 << 20)) for _ in range(12)]


def write_for_ever(directory: str, seed: int, contents: list[tuple[str, bytes]]) -> None:
    store = open_store(directory)
    for number in count():
        digest, data = contents[number % len(contents)]
        store.put(f"{seed}/{number}/{digest}", data)


def race(directory: str, key: str) -> int:
    """How many of four processes were told that they created the key."""
    start_s = time.time() + 0.02
    children = [os.fork() for _ in range(1)]
    while len(children) < 4 and children[-1]:
        children.append(os.fork())
    if not children[-1]:
        store = open_store(directory)
        time.sleep(max(0.0, start_s - time.time()))
        os._exit(store.put(key, bytes([len(children)]) * 300_000))
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def main() -> None:
    directory = sys.argv[1]
    contents = [(hashlib.sha256(data).hexdigest(), data) for data in make_contents()]
    for line in sys.stdin:
        command, argument = line.split()
        if command == "race":
            print(race(directory, argument), flush=True)
            continue
        child = os.fork()
        if not child:
            write_for_ever(directory, int(argument), contents)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main()
