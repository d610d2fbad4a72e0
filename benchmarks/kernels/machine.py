"""How much two cores of this machine do against one: the ceiling of any two-thread speedup.

Virtual cores may share a physical one, with each other or with strangers.
"""

from __future__ import annotations

import subprocess
import sys

LOOP = """
import time, numpy
a = numpy.ones(4096, numpy.float32)
start = time.perf_counter()
for _ in range(150_000):
    a = a * 1.0001
print(time.perf_counter() - start)
"""


def two_cores_over_one() -> float:
    """Throughput of two independent processes over that of one; 2 where cores are real and idle."""
    alone = min(_seconds(1) for _ in range(2))
    together = min(_seconds(2) for _ in range(2))
    return 2 * alone / together


def _seconds(num_processes: int) -> float:
    """Seconds of the slowest of so many processes that run the same loop at once."""
    started = [
        subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE)
        for _ in range(num_processes)
    ]
    return max(float(process.communicate()[0]) for process in started)
