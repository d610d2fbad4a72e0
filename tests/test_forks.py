"""What each process makes for itself."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from cachegen.forks import PerProcess


def test_one_for_all_threads_of_a_process() -> None:
    barrier, made, found = threading.Barrier(8), [], []
    shared = PerProcess(lambda: made.append(None) or object())

    def ask() -> None:
        barrier.wait(10)
        found.append(shared())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(set(map(id, found))) == 1


def test_what_could_not_be_made_is_tried_again() -> None:
    left = [object()]
    shared = PerProcess(lambda: left.pop())
    first = shared()
    assert shared() is first
    empty = PerProcess(lambda: [].pop())
    for _ in range(2):
        with pytest.raises(IndexError):
            empty()


FORKING = """
import os, signal, threading, time
from cachegen.forks import PerProcess, num_forks

def slow():
    time.sleep(0.5)
    return os.getpid()

ready, being_made = PerProcess(os.getpid), PerProcess(slow)
assert ready() == os.getpid() and num_forks() == 0
threading.Thread(target=being_made).start()
time.sleep(0.1)  # its lock is held

def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(20)
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def check():
    assert ready() == being_made() == os.getpid()

def child():
    assert num_forks() == 1
    check()
    in_child(check)
    check()

in_child(child)
check()
assert num_forks() == 0
print("done")
"""


def test_a_forked_child_makes_its_own_even_while_the_parent_makes_it() -> None:
    run = [sys.executable, "-c", FORKING]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
