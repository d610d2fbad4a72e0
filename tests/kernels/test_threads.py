"""Helper threads: kept from call to call, shared by callers, and not needed by a forked child."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cachegen.kernels import cpu

TASKS = Path("/proc/self/task")
CALLS = 40


def roundtrips(block, *, threads: int) -> bool:
    coded = block.encode(cpu, threads=threads)
    return np.array_equal(block.decode(cpu, coded, threads=threads), block.symbols)


def test_helpers_are_kept_and_not_multiplied(make_block):
    block = make_block(50, 16, rows_per_substream=5, groups_per_substream=2)
    assert roundtrips(block, threads=4)
    before = len(list(TASKS.iterdir()))
    assert before >= 4
    assert all(roundtrips(block, threads=4) for _ in range(CALLS))
    assert len(list(TASKS.iterdir())) == before


def test_callers_share_the_helpers(make_block):
    blocks = [
        make_block(64, 8, rows_per_substream=4, groups_per_substream=1, seed=seed)
        for seed in range(6)
    ]
    with ThreadPoolExecutor(len(blocks)) as callers:
        results = callers.map(lambda block: roundtrips(block, threads=3), blocks * CALLS)
        assert all(results)


def test_more_threads_than_the_pool_allows(make_block):
    block = make_block(600, 1, lanes=8, rows_per_substream=1)
    before = len(list(TASKS.iterdir()))
    assert roundtrips(block, threads=10_000)
    assert len(list(TASKS.iterdir())) <= before + 256


FORKING = """
import os, threading
import numpy as np
from cachegen.kernels import Coding, cpu, normalise

rng = np.random.default_rng(0)
symbols = rng.integers(0, 9, (400, 64), dtype=np.uint8)
ids = np.zeros(64, dtype=np.int32)
frequencies = normalise(np.bincount(symbols.ravel(), minlength=256)[None])
coding = Coding(ids, frequencies, lanes=8, rows_per_substream=10, groups_per_substream=1)

def works():
    coded = cpu.encode(symbols, coding, threads=3)
    decoded = cpu.decode(coded, coding, num_rows=400, threads=3)
    return np.array_equal(decoded, symbols)

assert works()
stop = threading.Event()

def keep_busy():
    while not stop.is_set():
        assert works()

other = threading.Thread(target=keep_busy)
other.start()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if works() and works() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert works()
stop.set()
other.join()
print("done")
"""


def test_forked_children_have_helpers_of_their_own():
    run = [sys.executable, "-c", FORKING]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "done\n"
